// Loaded into NNI's manager by NODE_OPTIONS, for trials on other machines. What NNI does there by
// itself, and does not here:
// - it takes any machine for the one that it was told to connect to: the keys of `known_hosts`
//   say which it is;
// - machines reach the manager over the network, and so does everybody else: they come through
//   NNI's own SSH connection, to a socket that is the user's;
// - it upgrades nni on every machine at every start: nothing is installed;
// - parameters go to whichever trial asks first: each trial gets those of its record;
// - trials go to machines in turn, be one idle or not: the least busy has the next;
// - why a machine cannot be had is in a log file, and without any left it waits for ever: the file
//   MACHINES says so, and the experiment ends. Its trials, as those of any that was stopped, run
//   again when it is resumed, with the machines that there are then.
'use strict';
const { spawnSync } = require('child_process');
const { randomBytes } = require('crypto');
const { once } = require('events');
const fs = require('fs');
const Module = require('module');
const net = require('net');
const os = require('os');
const path = require('path');
const { pipeline } = require('stream');
const { promisify } = require('util');

const MACHINES = 'machines.jsonl';  // read by launcher.py
const HELPER = 'sedona_nni.strategies.nni_border.machine';  // runs on a machine
const KEEPALIVE_MS = 10000;  // three times without an answer, and the machine is gone

// Tell the person at the terminal; with an ending, as the last words of this manager.
function tell(message, ending) {
  const line = JSON.stringify({ message, ending: ending ?? null });
  fs.appendFileSync(told(), `${line}\n`);
}

function told() {
  return path.join(global.nni.paths.logDirectory, MACHINES);
}

function giveUp(message) {
  if (global.nni.shutdown.processStatus !== 'stopping') {
    tell(message, 'lost');
    global.nni.shutdown.initiate(message);
  }
}

function nameOf({ user, host, port }) {
  return `machine ${user}@${host}:${port}`;
}

function knownKeys({ user, host, port }) {
  const name = port === 22 ? host : `[${host}]:${port}`;
  const files = [path.join(os.homedir(), '.ssh', 'known_hosts'), '/etc/ssh/ssh_known_hosts'];
  const found = files.flatMap(file => {
    const asked = spawnSync('ssh-keygen', ['-F', name, '-f', file], { encoding: 'utf8' });
    if (asked.error) {
      throw new Error(`ssh-keygen cannot be asked for its key (${asked.error.message})`);
    }
    return asked.stdout.split('\n').map(line => line.split(' '));
  });
  const revoked = new Set(found.filter(([mark]) => mark === '@revoked').map(fields => fields[3]));
  const keys = found.filter(fields => isKey(fields) && !revoked.has(fields[2]));
  if (keys.length === 0) {
    const command = port === 22 ? `ssh ${user}@${host}` : `ssh -p ${port} ${user}@${host}`;
    throw new Error(`its key is not in ${files[0]}; \`${command}\` asks and puts it there`);
  }
  return keys.map(([, type, key]) => ({ type, key }));
}

function isKey(fields) {  // and no comment or mark
  return fields.length >= 3 && !/^[#@]/.test(fields[0]);
}

function algorithmsOf(keys) {
  const types = new Set(keys.map(({ type }) => type));
  return [...types].flatMap(type =>
    type === 'ssh-rsa' ? ['rsa-sha2-512', 'rsa-sha2-256'] : [type]);
}

const mendSsh = (Ssh, requireThere) => class extends Ssh {
  async connect() {
    const { host, port, user, sshKeyFile } = this.config;
    const keys = knownKeys(this.config);
    const { Client } = requireThere('ssh2');
    this.client = new Client();
    this.client.connect({
      host,
      port,
      username: user,
      privateKey: fs.readFileSync(sshKeyFile),
      algorithms: { serverHostKey: algorithmsOf(keys) },
      hostVerifier: shown => keys.some(({ key }) => key === shown.toString('base64')),
      keepaliveInterval: KEEPALIVE_MS,
    });
    try {
      await once(this.client, 'ready');
    } catch (error) {
      throw new Error(this.explained(error));
    }
    const { client } = this;
    let reason = 'closed';
    client.on('error', error => { reason = error.message; });
    client.on('close', () => {
      if (client === this.client) {
        giveUp(`${nameOf(this.config)}: connection lost (${reason})`);
      }
    });
  }

  explained({ level, message }) {
    if (level === 'client-authentication') {
      return `refuses the key ${this.config.sshKeyFile} (${message})`;
    }
    return /host key|Host denied/.test(message)
      ? `does not show the key that known_hosts has for it (${message})`
      : message;
  }

  // As NNI's own, which does not say why a command has failed.
  async run(command) {
    const { code, stdout, stderr } = await this.exec(command);
    if (code !== 0) {
      throw new Error(stderr.trim().split('\n').pop() || `${command} has failed`);
    }
    return stdout.trim();
  }

  // Let whoever connects to a socket on the machine, which only its user can, reach the manager.
  async forward(socket) {
    this.client.on('unix connection', (_, accept) => {
      const there = accept();
      const here = net.connect(global.nni.args.port, '127.0.0.1');
      pipeline(there, here, () => {});
      pipeline(here, there, () => {});
    });
    try {
      await promisify(this.client.openssh_forwardInStreamLocal.bind(this.client))(socket);
    } catch (error) {
      const option = 'AllowStreamLocalForwarding in its sshd_config';
      throw new Error(`does not forward a socket to the manager, see ${option} (${error.message})`);
    }
  }
};

const mendWorker = (Worker, requireThere) => class extends Worker {
  socket = `/tmp/sedona-nni-${randomBytes(8).toString('hex')}`;  // short, as sockets have to be

  async start() {
    await this.ssh.connect();
    this.python = await this.findPython();
    await this.ssh.forward(this.socket);
    await this.launchTrialKeeperDaemon();
    this.env = { ...await this.trialKeeper.start(), host: this.config.host };
  }

  async launchTrialKeeperDaemon() {
    const { runPythonScript } = requireThere('common/pythonScript');
    const version = await runPythonScript('import sedona_nni; print(sedona_nni.__version__)');
    const config = JSON.stringify({
      sedonaNniVersion: version.trim(),
      environmentId: this.envId,
      experimentId: global.nni.args.experimentId,
      logLevel: global.nni.args.logLevel,
      managerCommandChannel: `ws+unix://${this.socket}:${new URL(this.channelUrl).pathname}`,
      platform: 'remote',
    });
    const answer = await this.ssh.run(`${this.python} -m ${HELPER} '${config}'`);
    const { success, stderr, uploadDirectory, trialKeeperDirectory } = JSON.parse(answer);
    if (!success) {
      throw new Error(`NNI does not run there (${stderr.trim().split('\n').pop()})`);
    }
    this.uploadDir = uploadDirectory;
    this.remoteTrialKeeperDir = trialKeeperDirectory;
  }

  async stop() {
    await super.stop();
    await this.ssh.exec(`rm ${this.socket}`);
  }
};

const mendService = Service => class extends Service {
  async start() {
    const environments = await super.start();
    if (environments.length === 0) {
      throw new Error('there is no machine left');
    }
    return environments;
  }

  async launchWorker(config) {
    try {
      return await super.launchWorker(config);
    } catch (error) {
      this.forget(this.workers.find(worker => worker.config === config));
      const message = `${nameOf(config)}: ${error.message}`;
      if (global.nni.args.action !== 'resume') {
        throw new Error(message);
      }
      tell(message);
      return null;
    }
  }

  async uploadDirectory(name, folder) {
    const before = this.workers.length;
    await super.uploadDirectory(name, folder);
    if (this.workers.length < before) {
      throw new Error(`${folder} could not be copied to every machine`);
    }
  }

  restartWorker(worker) {
    this.forget(worker);
    giveUp(`${nameOf(worker.config)}: what NNI runs there has ended`);
  }

  // After a resume nobody knows where a trial of before ran; what it said was fetched when it failed.
  async downloadTrialDirectory(trialId) {
    const here = path.join(global.nni.paths.experimentRoot, 'trials', trialId);
    const isHere = !this.workersByTrial.has(trialId) && fs.existsSync(here);
    return isHere ? here : super.downloadTrialDirectory(trialId);
  }

  // Nobody there will answer any more.
  forget(worker) {
    worker.ssh.disconnect();
    this.workers = this.workers.filter(each => each !== worker);
    for (const map of [this.workersByChannel, this.workersByEnv, this.workersByTrial]) {
      map.forEach((value, key) => { if (value === worker) map.delete(key); });
    }
  }
};

const mendTrials = Trials => class extends Trials {
  constructor(config) {
    super(config);
    fs.rmSync(told(), { force: true });  // of before a resume
  }

  async start() {
    try {
      await super.start();
    } catch (error) {
      tell(error.message, 'never started');
      throw error;
    }
  }

  async submitTrialJob(form) {
    if (this.config.platform !== 'remote') {
      return super.submitTrialJob(form);
    }
    await this.startDeferred.promise;
    const isThere = this.environments.some(({ id }) => id === form.envId);
    // As if it were resumed: then it gets its own parameters. Its name is the secret by which a
    // trial is known on its machine, see SECURITY.md.
    const id = form.id ?? randomBytes(8).toString('hex');
    return super.submitTrialJob({ ...form, id, envId: isThere ? form.envId : this.leastBusy() });
  }

  leastBusy() {
    const jobs = Object.values(this.trialJobs);
    const running = ({ id }) => jobs.filter(
      ({ envId, status }) => envId === id && ['WAITING', 'RUNNING'].includes(status)).length;
    return this.environments.reduce((best, each) => running(each) < running(best) ? each : best).id;
  }
};

const MENDED = {
  ssh: ['Ssh', mendSsh],
  worker: ['Worker', mendWorker],
  remote: ['RemoteTrainingServiceV3', mendService],
  compat: ['V3asV1', mendTrials],
};
const load = Module._load;
Module._load = function (request, parent, ...rest) {
  const loaded = load.call(this, request, parent, ...rest);
  const [name, mend] = MENDED[path.basename(request)] ?? [];
  if (name !== undefined && Object.getOwnPropertyDescriptor(loaded, name)?.writable) {
    loaded[name] = mend(loaded[name], parent.require.bind(parent));
    Object.defineProperty(loaded, name, { writable: false });
  }
  return loaded;
};
