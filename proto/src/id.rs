//! Identities that are the same everywhere. They are made from wire integers at the edge of a crate; 0 stands for
//! "unset" on the wire and is nobody's identity.

use std::fmt;

/// Names a region: a key range with its own Raft group. Never used again once the region is gone (R31).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u64);

/// Names a store: one node with one directory. An emptied directory joins under a new id (R30).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u64);

macro_rules! id {
    ($name:ident, $prefix:literal) => {
        impl $name {
            /// The identity in a wire field, where 0 means that the field is unset.
            pub fn from_wire(id: u64) -> Option<Self> {
                (id != 0).then_some(Self(id))
            }
        }

        impl From<$name> for u64 {
            fn from(id: $name) -> u64 {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(RegionId, "r");
id!(StoreId, "s");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_on_the_wire_is_no_identity() {
        assert_eq!(RegionId::from_wire(0), None);
        assert_eq!(StoreId::from_wire(7), Some(StoreId(7)));
        assert_eq!(u64::from(RegionId(9)), 9);
    }

    #[test]
    fn printed_forms() {
        assert_eq!(
            format!("{} {:?} {:?}", RegionId(3), RegionId(3), StoreId(4)),
            "3 r3 s4"
        );
        assert_eq!(format!("{:>4}", StoreId(4)), "   4");
    }
}
