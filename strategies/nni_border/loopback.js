// Loaded into NNI's manager by NODE_OPTIONS. The manager listens to the whole network without any
// authentication and has no option against it; here a server that names only a port gets the
// loopback address.
'use strict';
const net = require('net');
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  if (typeof args[0] === 'number' && typeof args[1] !== 'string') {
    args.splice(1, 0, '127.0.0.1');
  }
  return listen.apply(this, args);
};
