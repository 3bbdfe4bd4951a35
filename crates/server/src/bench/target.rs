//! What is measured: pontoon through its own client, etcd through the client that its users take.

use bytes::Bytes;
use clap::ValueEnum;
use etcd_client::KvClient;

use super::report::Settings;
use crate::{
    cli::Target,
    exit::{Failure, Kind, Result},
    remote::Keys,
};

/// Clients that share a connection to etcd. Its own benchmark does the same; one HTTP/2 connection for all would measure
/// that connection.
const CLIENTS_PER_CONNECTION: usize = 32;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetKind {
    /// A pontoon cluster
    Pontoon,
    /// An etcd cluster
    Etcd,
}

impl TargetKind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pontoon => "pontoon",
            Self::Etcd => "etcd",
        }
    }
}

/// A connection that one client uses, or that clients are made from.
pub enum Connection {
    /// To pontoon.
    Pontoon {
        /// Reads and writes keys.
        keys: Keys,
        /// Placement members, to ask for the settings.
        cluster: Target,
    },
    /// To etcd.
    Etcd {
        /// Connections, in turn to every endpoint.
        clients: Vec<etcd_client::Client>,
        /// The one that this client uses.
        own: Box<KvClient>,
    },
}

impl Connection {
    /// Connects for so many clients.
    ///
    /// # Errors
    /// The target does not answer.
    pub async fn open(
        kind: TargetKind,
        cluster: &Target,
        endpoints: &[String],
        clients: usize,
    ) -> Result<Self> {
        match kind {
            TargetKind::Pontoon => Ok(Self::Pontoon {
                keys: cluster.keys().await?,
                cluster: cluster.clone(),
            }),
            TargetKind::Etcd => {
                let mut connections = Vec::new();
                for number in 0..clients
                    .div_ceil(CLIENTS_PER_CONNECTION)
                    .max(endpoints.len())
                {
                    let endpoint = &endpoints[number % endpoints.len()];
                    let client = etcd_client::Client::connect([endpoint], None)
                        .await
                        .map_err(|error| unreachable(endpoint, &error))?;
                    connections.push(client);
                }
                let own = Box::new(connections[0].kv_client());
                Ok(Self::Etcd {
                    clients: connections,
                    own,
                })
            }
        }
    }

    /// The connection of one client.
    pub fn for_client(&self, client: usize) -> Self {
        match self {
            Self::Pontoon { keys, cluster } => Self::Pontoon {
                keys: keys.clone(),
                cluster: cluster.clone(),
            },
            Self::Etcd { clients, .. } => Self::Etcd {
                own: Box::new(clients[client % clients.len()].kv_client()),
                clients: Vec::new(),
            },
        }
    }

    /// What the numbers will depend on.
    ///
    /// # Errors
    /// The target does not answer.
    pub async fn settings(&self, open_loop: bool) -> Result<Settings> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let loop_kind = if open_loop { "open" } else { "closed" };
        match self {
            Self::Pontoon { cluster, .. } => {
                let status = cluster.remote().status().await?;
                Ok(Settings {
                    replicas: status.replicas.min(status.stores_up),
                    durability: "synced on a quorum before it is acknowledged",
                    reads: "linearizable reads",
                    servers: status.stores_up,
                    regions: Some(status.regions),
                    cores,
                    loop_kind,
                })
            }
            Self::Etcd { clients, .. } => {
                let members = clients[0]
                    .cluster_client()
                    .member_list()
                    .await
                    .map_err(|error| unreachable("etcd", &error))?
                    .members()
                    .len() as u32;
                Ok(Settings {
                    replicas: members,
                    durability: "synced on a quorum before it is acknowledged (unless etcd runs with --unsafe-no-fsync)",
                    reads: "linearizable reads",
                    servers: members,
                    regions: None,
                    cores,
                    loop_kind,
                })
            }
        }
    }

    /// Writes a key.
    ///
    /// # Errors
    /// What the client said.
    pub async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), String> {
        match self {
            Self::Pontoon { keys, .. } => keys
                .put(key, value, None)
                .await
                .map_err(|error| error.to_string()),
            Self::Etcd { own, .. } => own
                .put(&key[..], &value[..], None)
                .await
                .map(drop)
                .map_err(|error| error.to_string()),
        }
    }

    /// Reads a key; whether it exists does not matter.
    ///
    /// # Errors
    /// What the client said.
    pub async fn get(&mut self, key: Bytes) -> Result<(), String> {
        match self {
            Self::Pontoon { keys, .. } => keys
                .get(key)
                .await
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::Etcd { own, .. } => own
                .get(&key[..], None)
                .await
                .map(drop)
                .map_err(|error| error.to_string()),
        }
    }
}

fn unreachable(endpoint: &str, error: &etcd_client::Error) -> Failure {
    Failure::new(
        Kind::Unreachable,
        format!("etcd does not answer at {endpoint}"),
    )
    .because(error)
    .hint("name its members with --endpoints")
}
