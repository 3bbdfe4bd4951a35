//! Load generator: closed or open loop, against pontoon or etcd.
