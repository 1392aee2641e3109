// Loaded into NNI's manager by NODE_OPTIONS. The manager is a daemon: where `sedona-nni run` was
// killed, nobody else would end it, and its experiment could not be resumed.
'use strict';
const LOOK_MS = 2000;
const [starter] = process.env.SEDONA_NNI_RUN.split('-');
const look = setInterval(() => {
  try {
    process.kill(Number(starter), 0);  // asks whether it is there
  } catch (error) {
    if (error.code !== 'ESRCH') return;
    clearInterval(look);
    process.kill(process.pid, 'SIGINT');
  }
}, LOOK_MS);
look.unref();
