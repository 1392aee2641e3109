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
INSERT INTO "studies" VALUES(1,'given');
INSERT INTO "studies" VALUES(2,'predsim');
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
INSERT INTO "study_directions" VALUES(2,'MAXIMIZE',2,0);
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
INSERT INTO "trial_intermediate_values" VALUES(1,2,1,6.66666701436042785644e-02,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,1,1.00000001490116119384e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,2,2,6.66666701436042785644e-02,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,1,2,6.66666701436042785644e-02,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(5,2,3,3.33333350718021392822e-02,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(6,1,3,3.33333350718021392822e-02,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(7,3,1,2.00000002980232238769e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(8,3,2,1.66666671633720397949e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(9,3,3,1.33333340287208557128e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(10,4,1,1.66666671633720397949e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(11,4,2,1.66666671633720397949e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(12,4,3,3.00000011920928955078e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(13,8,1,1.66666671633720397949e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(14,7,1,1.00000001490116119384e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(15,8,2,1.00000001490116119384e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(16,8,3,1.66666671633720397949e-01,'FINITE');
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
INSERT INTO "trial_params" VALUES(1,1,'lr',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.02, 0.0001, 1e+30]}}');
INSERT INTO "trial_params" VALUES(2,2,'lr',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.02, 0.0001, 1e+30]}}');
INSERT INTO "trial_params" VALUES(3,3,'lr',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.02, 0.0001, 1e+30]}}');
INSERT INTO "trial_params" VALUES(4,4,'lr',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.02, 0.0001, 1e+30]}}');
INSERT INTO "trial_params" VALUES(5,5,'lr',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.02, 0.0001, 1e+30]}}');
INSERT INTO "trial_params" VALUES(6,6,'lr',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.02, 0.0001, 1e+30]}}');
INSERT INTO "trial_params" VALUES(7,7,'lr',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.02, 0.0001, 1e+30]}}');
INSERT INTO "trial_params" VALUES(8,8,'lr',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.02, 0.0001, 1e+30]}}');
INSERT INTO "trial_params" VALUES(9,9,'lr',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.02, 0.0001, 1e+30]}}');
INSERT INTO "trial_params" VALUES(10,10,'lr',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.02, 0.0001, 1e+30]}}');
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
INSERT INTO "trial_user_attributes" VALUES(1,1,'strategy','"given"');
INSERT INTO "trial_user_attributes" VALUES(2,1,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(3,1,'cuts','[2, 4]');
INSERT INTO "trial_user_attributes" VALUES(4,1,'auxiliary','["conv1", "conv2"]');
INSERT INTO "trial_user_attributes" VALUES(5,2,'strategy','"predsim"');
INSERT INTO "trial_user_attributes" VALUES(6,2,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(7,2,'cuts','[1, 4]');
INSERT INTO "trial_user_attributes" VALUES(8,2,'auxiliary','["predsim", "predsim"]');
INSERT INTO "trial_user_attributes" VALUES(9,3,'strategy','"given"');
INSERT INTO "trial_user_attributes" VALUES(10,3,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(11,3,'cuts','[2, 4]');
INSERT INTO "trial_user_attributes" VALUES(12,3,'auxiliary','["conv1", "conv2"]');
INSERT INTO "trial_user_attributes" VALUES(13,4,'strategy','"predsim"');
INSERT INTO "trial_user_attributes" VALUES(14,4,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(15,4,'cuts','[1, 4]');
INSERT INTO "trial_user_attributes" VALUES(16,4,'auxiliary','["predsim", "predsim"]');
INSERT INTO "trial_user_attributes" VALUES(17,5,'strategy','"given"');
INSERT INTO "trial_user_attributes" VALUES(18,5,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(19,5,'cuts','[2, 4]');
INSERT INTO "trial_user_attributes" VALUES(20,5,'auxiliary','["conv1", "conv2"]');
INSERT INTO "trial_user_attributes" VALUES(21,6,'strategy','"predsim"');
INSERT INTO "trial_user_attributes" VALUES(22,6,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(23,6,'cuts','[1, 4]');
INSERT INTO "trial_user_attributes" VALUES(24,6,'auxiliary','["predsim", "predsim"]');
INSERT INTO "trial_user_attributes" VALUES(25,7,'strategy','"given"');
INSERT INTO "trial_user_attributes" VALUES(26,7,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(27,7,'cuts','[2, 4]');
INSERT INTO "trial_user_attributes" VALUES(28,7,'auxiliary','["conv1", "conv2"]');
INSERT INTO "trial_user_attributes" VALUES(29,8,'strategy','"predsim"');
INSERT INTO "trial_user_attributes" VALUES(30,8,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(31,8,'cuts','[1, 4]');
INSERT INTO "trial_user_attributes" VALUES(32,8,'auxiliary','["predsim", "predsim"]');
INSERT INTO "trial_user_attributes" VALUES(33,9,'strategy','"given"');
INSERT INTO "trial_user_attributes" VALUES(34,9,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(35,9,'cuts','[2, 4]');
INSERT INTO "trial_user_attributes" VALUES(36,9,'auxiliary','["conv1", "conv2"]');
INSERT INTO "trial_user_attributes" VALUES(37,10,'strategy','"predsim"');
INSERT INTO "trial_user_attributes" VALUES(38,10,'blocks','3');
INSERT INTO "trial_user_attributes" VALUES(39,10,'cuts','[1, 4]');
INSERT INTO "trial_user_attributes" VALUES(40,10,'auxiliary','["predsim", "predsim"]');
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
INSERT INTO "trial_values" VALUES(1,2,0,6.66666701436042785644e-02,'FINITE');
INSERT INTO "trial_values" VALUES(2,1,0,1.00000001490116119384e-01,'FINITE');
INSERT INTO "trial_values" VALUES(3,3,0,2.00000002980232238769e-01,'FINITE');
INSERT INTO "trial_values" VALUES(4,4,0,3.00000011920928955078e-01,'FINITE');
INSERT INTO "trial_values" VALUES(5,7,0,1.00000001490116119384e-01,'FINITE');
INSERT INTO "trial_values" VALUES(6,8,0,1.66666671633720397949e-01,'FINITE');
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
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-27 01:49:58.241618','2026-11-27 01:51:07.467299');
INSERT INTO "trials" VALUES(2,0,2,'COMPLETE','2026-11-27 01:49:58.524498','2026-11-27 01:51:02.572866');
INSERT INTO "trials" VALUES(3,1,1,'COMPLETE','2026-11-27 01:51:13.193339','2026-11-27 01:52:07.827031');
INSERT INTO "trials" VALUES(4,1,2,'COMPLETE','2026-11-27 01:51:18.513727','2026-11-27 01:52:09.939013');
INSERT INTO "trials" VALUES(5,2,1,'FAIL','2026-11-27 01:52:15.621205','2026-11-27 01:53:00.483105');
INSERT INTO "trials" VALUES(6,2,2,'FAIL','2026-11-27 01:52:16.147732','2026-11-27 01:53:01.015392');
INSERT INTO "trials" VALUES(7,3,1,'PRUNED','2026-11-27 01:53:00.563684','2026-11-27 01:53:37.209407');
INSERT INTO "trials" VALUES(8,3,2,'PRUNED','2026-11-27 01:53:01.119393','2026-11-27 01:53:39.387302');
INSERT INTO "trials" VALUES(9,4,1,'FAIL','2026-11-27 01:53:43.186557','2026-11-27 01:54:27.362104');
INSERT INTO "trials" VALUES(10,4,2,'FAIL','2026-11-27 01:53:45.312830','2026-11-27 01:54:29.927930');
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
