//! Who a process is, and whom it lets in (R30).

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use proto::{
    StoreId,
    pontoon::v1::{Hello, Refusal, refusal::Reason},
};

/// What a process says of itself in every handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster_id: u64,
    /// Its own store.
    pub store: StoreId,
    /// Durable restart counter of its directory.
    pub boot: u64,
    /// Version of its wire and disk formats.
    pub format: u32,
}

impl Identity {
    pub(crate) fn hello(&self, to: StoreId) -> Hello {
        Hello {
            cluster_id: self.cluster_id,
            from_store: self.store.0,
            to_store: to.0,
            boot: self.boot,
            format: self.format,
        }
    }
}

/// Decides about callers. It remembers the highest boot counter of each store: a lower one comes from a second process
/// over a copy of the same directory, or from one that should be dead.
pub(crate) struct Gate {
    mine: Identity,
    boots: Mutex<BTreeMap<StoreId, u64>>,
}

/// A caller that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub store: StoreId,
    pub boot: u64,
}

impl Gate {
    pub(crate) fn new(mine: Identity) -> Self {
        Self {
            mine,
            boots: Mutex::default(),
        }
    }

    pub(crate) fn mine(&self) -> &Identity {
        &self.mine
    }

    /// Compares a hello with what this process is.
    pub(crate) fn admit(&self, hello: &Hello) -> Result<Caller, Refusal> {
        if hello.cluster_id != self.mine.cluster_id {
            return Err(self.refusal(Reason::Cluster));
        }
        // A caller with our own store id runs on a copy of our directory.
        let from = StoreId::from_wire(hello.from_store).filter(|from| *from != self.mine.store);
        let Some(store) = from.filter(|_| hello.to_store == self.mine.store.0) else {
            return Err(self.refusal(Reason::Store));
        };
        if hello.format != self.mine.format {
            return Err(self.refusal(Reason::Format));
        }
        let mut boots = self.boots.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = boots.entry(store).or_insert(hello.boot);
        if hello.boot < *seen {
            return Err(self.refusal(Reason::Boot));
        }
        *seen = hello.boot;
        Ok(Caller {
            store,
            boot: hello.boot,
        })
    }

    /// Checks that no later process of the caller's store came since.
    pub(crate) fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        let boots = self.boots.lock().unwrap_or_else(PoisonError::into_inner);
        match boots.get(&caller.store) {
            Some(seen) if *seen > caller.boot => Err(self.refusal(Reason::Boot)),
            _ => Ok(()),
        }
    }

    fn refusal(&self, reason: Reason) -> Refusal {
        Refusal {
            reason: reason.into(),
            mine: Some(self.mine.hello(self.mine.store)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: Identity = Identity {
        cluster_id: 7,
        store: StoreId(1),
        boot: 3,
        format: 1,
    };

    fn hello() -> Hello {
        Identity {
            cluster_id: 7,
            store: StoreId(2),
            boot: 5,
            format: 1,
        }
        .hello(StoreId(1))
    }

    fn reason(gate: &Gate, hello: Hello) -> Reason {
        gate.admit(&hello).expect_err("must be refused").reason()
    }

    #[test]
    fn only_a_fitting_hello_is_admitted() {
        let gate = Gate::new(MINE);
        assert_eq!(
            gate.admit(&hello()),
            Ok(Caller {
                store: StoreId(2),
                boot: 5
            })
        );
        assert_eq!(
            reason(
                &gate,
                Hello {
                    cluster_id: 8,
                    ..hello()
                }
            ),
            Reason::Cluster
        );
        assert_eq!(
            reason(
                &gate,
                Hello {
                    to_store: 3,
                    ..hello()
                }
            ),
            Reason::Store
        );
        assert_eq!(
            reason(
                &gate,
                Hello {
                    from_store: 0,
                    ..hello()
                }
            ),
            Reason::Store
        );
        assert_eq!(
            reason(
                &gate,
                Hello {
                    from_store: 1,
                    ..hello()
                }
            ),
            Reason::Store
        );
        assert_eq!(
            reason(
                &gate,
                Hello {
                    format: 2,
                    ..hello()
                }
            ),
            Reason::Format
        );
        assert_eq!(reason(&gate, Hello::default()), Reason::Cluster);
    }

    #[test]
    fn an_older_process_of_a_store_is_shut_out() {
        let gate = Gate::new(MINE);
        let older = gate.admit(&hello()).unwrap();
        let newer = gate.admit(&Hello { boot: 6, ..hello() }).unwrap();
        assert_eq!(
            gate.check(&older).expect_err("replaced").reason(),
            Reason::Boot
        );
        assert_eq!(gate.check(&newer), Ok(()));
        assert_eq!(reason(&gate, hello()), Reason::Boot);
        assert_eq!(
            reason(
                &gate,
                Hello {
                    cluster_id: 8,
                    boot: 99,
                    ..hello()
                }
            ),
            Reason::Cluster
        );
        assert_eq!(
            gate.check(&newer),
            Ok(()),
            "a refused hello leaves no trace"
        );
    }
}
