//! The directory of a placement member: whose it is, and with whom its group began.

use std::path::{Path, PathBuf};

use engine::Engine;
use proto::StoreId;
use proto::pontoon::v1::{StoreIdentity, region_state::State};
use store::identity;

use super::error::Error;
use super::member::{Members, REGION, first_region, name, position};

/// What a directory knows of its member and its group. All of it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The member.
    pub member: StoreId,
    /// With whom the group began; until `begun`, with whom it is to begin, and empty at first.
    pub first: Vec<StoreId>,
    /// Whether the group began. Without this member among the first, it began before this directory was made.
    pub begun: bool,
}

/// A directory that is open.
pub struct Directory<E> {
    engine: E,
    path: PathBuf,
    identity: StoreIdentity,
    known: Known,
}

impl<E: Engine> Directory<E> {
    /// Makes a directory this member's, or checks that it is, and raises its boot counter. `birth` is random: an empty
    /// directory makes a member that never was.
    ///
    /// # Errors
    /// [`Error::OtherMember`] when it belongs to another group or another member, [`Error::Replaced`] when the group
    /// removed its member.
    pub fn take(
        engine: E,
        path: &Path,
        members: &Members,
        birth: u64,
        api_version: u32,
    ) -> Result<Self, Error> {
        let failed = |error| store_error(path, error);
        let identity = match identity::read(&engine).map_err(failed)? {
            Some(identity) => identity,
            None => {
                let id = members.born(birth);
                identity::create(&engine, members.group_id(), id, api_version).map_err(failed)?
            }
        };
        let member = StoreId(identity.store_id);
        let same_group = identity.cluster_id == members.group_id();
        if !same_group || members.position_of(member) != Some(members.position()) {
            return Err(Error::OtherMember {
                path: path.to_owned(),
                member: position(member).map_or_else(|| "nobody".to_owned(), name),
                same_group,
            });
        }
        let state = identity::region_state(&engine, REGION).map_err(failed)?;
        if state
            .as_ref()
            .is_some_and(|state| state.state() == State::Tombstone)
        {
            return Err(Error::Replaced);
        }
        let mut first: Vec<StoreId> = identity
            .first_members
            .iter()
            .copied()
            .map(StoreId)
            .collect();
        if state.is_some() && first.is_empty() {
            first = members.oldest();
        }
        let joins = !first.is_empty() && !first.contains(&member);
        let known = Known {
            member,
            first,
            begun: state.is_some() || joins,
        };
        let identity = identity::bump_boot(&engine).map_err(failed)?;
        Ok(Self {
            engine,
            path: path.to_owned(),
            identity,
            known,
        })
    }

    /// What is known.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Notes with whom the group is to begin.
    ///
    /// # Errors
    /// The disk failed.
    pub fn plan(&mut self, first: Vec<StoreId>) -> Result<(), Error> {
        assert!(!self.known.begun, "a group begins once");
        self.note(first)
    }

    /// Makes this member one of those with whom the group begins.
    ///
    /// # Errors
    /// The disk failed.
    pub fn begin(&mut self) -> Result<(), Error> {
        let Known { member, first, .. } = &self.known;
        assert!(first.contains(member), "{member} is not among {first:?}");
        identity::bootstrap(&self.engine, &[first_region(first)])
            .map_err(|error| store_error(&self.path, error))?;
        self.known.begun = true;
        Ok(())
    }

    /// Makes this member one that is to be taken in by a group that began with others.
    ///
    /// # Errors
    /// The disk failed.
    pub fn join(&mut self, first: Vec<StoreId>) -> Result<(), Error> {
        assert!(!self.known.begun, "a group begins once");
        assert!(!first.contains(&self.known.member), "it is of the first");
        self.note(first)?;
        self.known.begun = true;
        Ok(())
    }

    fn note(&mut self, first: Vec<StoreId>) -> Result<(), Error> {
        let noted = first.iter().map(|member| member.0).collect();
        self.identity = identity::note_first_members(&self.engine, noted)
            .map_err(|error| store_error(&self.path, error))?;
        self.known.first = first;
        Ok(())
    }

    /// Whether the region of the group is here already.
    ///
    /// # Errors
    /// The disk failed.
    pub fn has_region(&self) -> Result<bool, Error> {
        let state = identity::region_state(&self.engine, REGION);
        let state = state.map_err(|error| store_error(&self.path, error))?;
        Ok(state.is_some())
    }

    /// What this member says of itself in handshakes, once its group began.
    pub fn handshake(&self, members: &Members) -> transport::Identity {
        assert!(self.known.begun, "before, nobody is talked to");
        transport::Identity {
            cluster_id: members.handshake_id(&self.known.first),
            store: self.known.member,
            boot: self.identity.boot,
            format: self.identity.format,
        }
    }
}

/// Sorts what is wrong with a directory.
pub fn store_error(path: &Path, error: store::Error) -> Error {
    let path: PathBuf = path.to_owned();
    match error {
        store::Error::Format { found, supported } => Error::NewerFormat {
            path,
            found,
            supported,
        },
        source => Error::Directory { path, source },
    }
}

#[cfg(test)]
mod tests {
    use engine::MemoryEngine;

    use super::*;

    fn members(me: &str) -> Members {
        let addresses = ["a:1", "b:1", "c:1"].map(str::to_owned);
        Members::new(&addresses, me).expect("a group of three")
    }

    fn take(
        engine: &MemoryEngine,
        members: &Members,
        birth: u64,
    ) -> Result<Directory<MemoryEngine>, Error> {
        Directory::take(engine.clone(), Path::new("dir"), members, birth, 1)
    }

    /// F26: a directory of another group, or of another member, is refused and stays as it is.
    #[test]
    fn a_directory_belongs_to_one_member() {
        let engine = MemoryEngine::new();
        let first = take(&engine, &members("a:1"), 5).expect("an empty directory");
        let again = take(&engine, &members("a:1"), 6).expect("its own directory");
        assert_eq!((first.identity.boot, again.identity.boot), (1, 2));
        assert_eq!(first.known, again.known);
        assert_eq!(first.known.member, StoreId(5 << 3 | 1));

        let refused = |members: &Members| match take(&engine, members, 7) {
            Ok(_) => panic!("it is taken"),
            Err(error) => error,
        };
        let error = refused(&members("b:1"));
        assert!(
            matches!(
                error,
                Error::OtherMember {
                    same_group: true,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("belongs to placement-1 of"),
            "{error}"
        );
        let alone = Members::new(&["a:1".to_owned()], "a:1").expect("a group of one");
        let error = refused(&alone);
        assert!(
            matches!(
                error,
                Error::OtherMember {
                    same_group: false,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_directory_remembers_where_its_group_stands() {
        let members = members("b:1");
        let engine = MemoryEngine::new();
        let mut directory = take(&engine, &members, 1).expect("an empty directory");
        assert_eq!(
            *directory.known(),
            Known {
                member: StoreId(10),
                first: vec![],
                begun: false
            }
        );
        let first = [9, 10, 11].map(StoreId).to_vec();
        directory.plan(first.clone()).expect("a disk");
        let mut directory = take(&engine, &members, 2).expect("its own directory");
        assert_eq!(
            (&directory.known.first, directory.known.begun),
            (&first, false)
        );
        directory.begin().expect("a disk");
        let directory = take(&engine, &members, 3).expect("its own directory");
        assert_eq!(
            (&directory.known.first, directory.known.begun),
            (&first, true)
        );
        let one = directory.handshake(&members);
        assert_eq!((one.store, one.boot), (StoreId(10), 3));

        let engine = MemoryEngine::new();
        let mut directory = take(&engine, &members, 4).expect("an empty directory");
        directory.join(first.clone()).expect("a disk");
        let directory = take(&engine, &members, 5).expect("its own directory");
        assert_eq!(
            *directory.known(),
            Known {
                member: StoreId(34),
                first,
                begun: true
            }
        );
        let other = directory.handshake(&members);
        assert_eq!(
            other.cluster_id, one.cluster_id,
            "both are of the same group"
        );
    }

    /// Directories from before ids had births are those of the oldest members.
    #[test]
    fn a_directory_without_a_birth_stays_what_it_is() {
        let members = members("b:1");
        let engine = MemoryEngine::new();
        identity::create(&engine, members.group_id(), StoreId(2), 1).expect("empty");
        identity::bootstrap(&engine, &[first_region(&members.oldest())]).expect("an identity");
        let directory = take(&engine, &members, 9).expect("its own directory");
        assert_eq!(
            *directory.known(),
            Known {
                member: StoreId(2),
                first: members.oldest(),
                begun: true
            }
        );
        assert_eq!(directory.handshake(&members).cluster_id, members.group_id());
    }
}
