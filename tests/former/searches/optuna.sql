BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'sedona-k2');
INSERT INTO "studies" VALUES(2,'sedona-k2-2');
INSERT INTO "studies" VALUES(3,'sedona-k3');
INSERT INTO "studies" VALUES(4,'sedona-k3-2');
INSERT INTO "studies" VALUES(5,'probe-k2');
INSERT INTO "studies" VALUES(6,'probe-k3');
INSERT INTO "studies" VALUES(7,'uniform-k2');
INSERT INTO "studies" VALUES(8,'uniform-k3');
INSERT INTO "studies" VALUES(9,'random-k2');
INSERT INTO "studies" VALUES(10,'random-k3');
INSERT INTO "studies" VALUES(11,'backprop');
INSERT INTO "studies" VALUES(12,'layerwise');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
INSERT INTO "study_directions" VALUES(2,'MAXIMIZE',1,1);
INSERT INTO "study_directions" VALUES(3,'MAXIMIZE',2,0);
INSERT INTO "study_directions" VALUES(4,'MAXIMIZE',2,1);
INSERT INTO "study_directions" VALUES(5,'MAXIMIZE',3,0);
INSERT INTO "study_directions" VALUES(6,'MAXIMIZE',3,1);
INSERT INTO "study_directions" VALUES(7,'MAXIMIZE',4,0);
INSERT INTO "study_directions" VALUES(8,'MAXIMIZE',4,1);
INSERT INTO "study_directions" VALUES(9,'MAXIMIZE',5,0);
INSERT INTO "study_directions" VALUES(10,'MAXIMIZE',5,1);
INSERT INTO "study_directions" VALUES(11,'MAXIMIZE',6,0);
INSERT INTO "study_directions" VALUES(12,'MAXIMIZE',6,1);
INSERT INTO "study_directions" VALUES(13,'MAXIMIZE',7,0);
INSERT INTO "study_directions" VALUES(14,'MAXIMIZE',7,1);
INSERT INTO "study_directions" VALUES(15,'MAXIMIZE',8,0);
INSERT INTO "study_directions" VALUES(16,'MAXIMIZE',8,1);
INSERT INTO "study_directions" VALUES(17,'MAXIMIZE',9,0);
INSERT INTO "study_directions" VALUES(18,'MAXIMIZE',9,1);
INSERT INTO "study_directions" VALUES(19,'MAXIMIZE',10,0);
INSERT INTO "study_directions" VALUES(20,'MAXIMIZE',10,1);
INSERT INTO "study_directions" VALUES(21,'MAXIMIZE',11,0);
INSERT INTO "study_directions" VALUES(22,'MAXIMIZE',11,1);
INSERT INTO "study_directions" VALUES(23,'MAXIMIZE',12,0);
INSERT INTO "study_directions" VALUES(24,'MAXIMIZE',12,1);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(2,1,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(3,2,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(4,2,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(5,3,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(6,3,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(7,4,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(8,4,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(9,5,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(10,5,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(11,6,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(12,6,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(13,7,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(14,7,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(15,8,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(16,8,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(17,9,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(18,9,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(19,10,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(20,10,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(21,11,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(22,11,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
INSERT INTO "trial_params" VALUES(23,12,'lr',1.23262230817413869637e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.005, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(24,12,'weight_decay',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0001, 0.001]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'strategy','"probe"');
INSERT INTO "trial_user_attributes" VALUES(2,1,'blocks','2');
INSERT INTO "trial_user_attributes" VALUES(3,1,'cuts','[4]');
INSERT INTO "trial_user_attributes" VALUES(4,1,'auxiliary','["conv1"]');
INSERT INTO "trial_user_attributes" VALUES(5,2,'strategy','"sedona"');
INSERT INTO "trial_user_attributes" VALUES(6,2,'blocks','2');
INSERT INTO "trial_user_attributes" VALUES(7,2,'cuts','[1]');
INSERT INTO "trial_user_attributes" VALUES(8,2,'auxiliary','["conv1"]');
INSERT INTO "trial_user_attributes" VALUES(9,3,'strategy','"sedona"');
INSERT INTO "trial_user_attributes" VALUES(10,3,'blocks','2');
INSERT INTO "trial_user_attributes" VALUES(11,3,'cuts','[5]');
INSERT INTO "trial_user_attributes" VALUES(12,3,'auxiliary','["conv2"]');
INSERT INTO "trial_user_attributes" VALUES(13,4,'strategy','"sedona"');
INSERT INTO "trial_user_attributes" VALUES(14,4,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(15,4,'cuts','[1, 5]');
INSERT INTO "trial_user_attributes" VALUES(16,4,'auxiliary','["conv1", "conv2"]');
INSERT INTO "trial_user_attributes" VALUES(17,5,'strategy','"sedona"');
INSERT INTO "trial_user_attributes" VALUES(18,5,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(19,5,'cuts','[1, 4]');
INSERT INTO "trial_user_attributes" VALUES(20,5,'auxiliary','["conv1", "conv2"]');
INSERT INTO "trial_user_attributes" VALUES(21,6,'strategy','"probe"');
INSERT INTO "trial_user_attributes" VALUES(22,6,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(23,6,'cuts','[0, 4]');
INSERT INTO "trial_user_attributes" VALUES(24,6,'auxiliary','["conv2", "conv1"]');
INSERT INTO "trial_user_attributes" VALUES(25,7,'strategy','"uniform"');
INSERT INTO "trial_user_attributes" VALUES(26,7,'blocks','2');
INSERT INTO "trial_user_attributes" VALUES(27,7,'cuts','[3]');
INSERT INTO "trial_user_attributes" VALUES(28,7,'auxiliary','["mlp-sr"]');
INSERT INTO "trial_user_attributes" VALUES(29,8,'strategy','"uniform"');
INSERT INTO "trial_user_attributes" VALUES(30,8,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(31,8,'cuts','[1, 4]');
INSERT INTO "trial_user_attributes" VALUES(32,8,'auxiliary','["mlp-sr", "mlp-sr"]');
INSERT INTO "trial_user_attributes" VALUES(33,9,'strategy','"random"');
INSERT INTO "trial_user_attributes" VALUES(34,9,'blocks','2');
INSERT INTO "trial_user_attributes" VALUES(35,9,'cuts','[5]');
INSERT INTO "trial_user_attributes" VALUES(36,9,'auxiliary','["conv1"]');
INSERT INTO "trial_user_attributes" VALUES(37,10,'strategy','"random"');
INSERT INTO "trial_user_attributes" VALUES(38,10,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(39,10,'cuts','[3, 5]');
INSERT INTO "trial_user_attributes" VALUES(40,10,'auxiliary','["conv1", "conv2"]');
INSERT INTO "trial_user_attributes" VALUES(41,11,'strategy','"backprop"');
INSERT INTO "trial_user_attributes" VALUES(42,11,'blocks','1');
INSERT INTO "trial_user_attributes" VALUES(43,11,'cuts','[]');
INSERT INTO "trial_user_attributes" VALUES(44,11,'auxiliary','[]');
INSERT INTO "trial_user_attributes" VALUES(45,12,'strategy','"layerwise"');
INSERT INTO "trial_user_attributes" VALUES(46,12,'blocks','8');
INSERT INTO "trial_user_attributes" VALUES(47,12,'cuts','[0, 1, 2, 3, 4, 5, 6]');
INSERT INTO "trial_user_attributes" VALUES(48,12,'auxiliary','["mlp-sr", "mlp-sr", "mlp-sr", "mlp-sr", "mlp-sr", "mlp-sr", "mlp-sr"]');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,6.66666701436042785644e-02,'FINITE');
INSERT INTO "trial_values" VALUES(2,1,1,1.58837772397094445508e+00,'FINITE');
INSERT INTO "trial_values" VALUES(3,2,0,1.00000001490116119384e-01,'FINITE');
INSERT INTO "trial_values" VALUES(4,2,1,1.31114952463267053772e+00,'FINITE');
INSERT INTO "trial_values" VALUES(5,3,0,1.33333340287208557128e-01,'FINITE');
INSERT INTO "trial_values" VALUES(6,3,1,1.21426784731602399602e+00,'FINITE');
INSERT INTO "trial_values" VALUES(7,4,0,1.00000001490116119384e-01,'FINITE');
INSERT INTO "trial_values" VALUES(8,4,1,1.70581207393351608203e+00,'FINITE');
INSERT INTO "trial_values" VALUES(9,5,0,2.00000002980232238769e-01,'FINITE');
INSERT INTO "trial_values" VALUES(10,5,1,2.52281467622908239789e+00,'FINITE');
INSERT INTO "trial_values" VALUES(11,6,0,2.00000002980232238769e-01,'FINITE');
INSERT INTO "trial_values" VALUES(12,6,1,2.05260042283298105303e+00,'FINITE');
INSERT INTO "trial_values" VALUES(13,7,0,2.33333334326744079589e-01,'FINITE');
INSERT INTO "trial_values" VALUES(14,7,1,1.8426966292134829839e+00,'FINITE');
INSERT INTO "trial_values" VALUES(15,8,0,2.00000002980232238769e-01,'FINITE');
INSERT INTO "trial_values" VALUES(16,8,1,2.57719260989594411981e+00,'FINITE');
INSERT INTO "trial_values" VALUES(17,9,0,6.66666701436042785644e-02,'FINITE');
INSERT INTO "trial_values" VALUES(18,9,1,1.22037307054150523377e+00,'FINITE');
INSERT INTO "trial_values" VALUES(19,10,0,1.33333340287208557128e-01,'FINITE');
INSERT INTO "trial_values" VALUES(20,10,1,1.85084642366936114044e+00,'FINITE');
INSERT INTO "trial_values" VALUES(21,11,0,1.00000001490116119384e-01,'FINITE');
INSERT INTO "trial_values" VALUES(22,11,1,1.0,'FINITE');
INSERT INTO "trial_values" VALUES(23,12,0,2.00000002980232238769e-01,'FINITE');
INSERT INTO "trial_values" VALUES(24,12,1,4.75176194205168389572e+00,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,5,'COMPLETE','2026-11-27 01:44:07.907045','2026-11-27 01:44:31.519061');
INSERT INTO "trials" VALUES(2,0,1,'COMPLETE','2026-11-27 01:44:32.187049','2026-11-27 01:44:55.372266');
INSERT INTO "trials" VALUES(3,0,2,'COMPLETE','2026-11-27 01:44:33.764107','2026-11-27 01:45:06.356056');
INSERT INTO "trials" VALUES(4,0,3,'COMPLETE','2026-11-27 01:45:01.608565','2026-11-27 01:45:38.832953');
INSERT INTO "trials" VALUES(5,0,4,'COMPLETE','2026-11-27 01:45:13.848011','2026-11-27 01:45:53.680725');
INSERT INTO "trials" VALUES(6,0,6,'COMPLETE','2026-11-27 01:45:47.333230','2026-11-27 01:46:26.204118');
INSERT INTO "trials" VALUES(7,0,7,'COMPLETE','2026-11-27 01:46:00.611145','2026-11-27 01:46:38.213027');
INSERT INTO "trials" VALUES(8,0,8,'COMPLETE','2026-11-27 01:46:34.693774','2026-11-27 01:47:15.724123');
INSERT INTO "trials" VALUES(9,0,9,'COMPLETE','2026-11-27 01:46:46.463327','2026-11-27 01:47:24.659991');
INSERT INTO "trials" VALUES(10,0,10,'COMPLETE','2026-11-27 01:47:22.997257','2026-11-27 01:48:05.622994');
INSERT INTO "trials" VALUES(11,0,11,'COMPLETE','2026-11-27 01:47:31.219147','2026-11-27 01:48:12.094277');
INSERT INTO "trials" VALUES(12,0,12,'COMPLETE','2026-11-27 01:48:14.042241','2026-11-27 01:48:43.175045');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
