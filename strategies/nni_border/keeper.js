// Loaded into what NNI runs on a machine to keep trials. Where the manager has gone, it ends and
// leaves its trials behind; they would write where they write when they are resumed.
'use strict';
const child_process = require('child_process');
const children = new Set();
const spawn = child_process.spawn;
child_process.spawn = function (...args) {
  const child = spawn.apply(this, args);
  children.add(child);
  child.on('exit', () => children.delete(child));
  return child;
};
process.on('exit', () => children.forEach(child => child.kill('SIGINT')));
