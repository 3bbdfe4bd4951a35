//! Ordered map with cheap copies: a persistent treap.
//!
//! A copy is one reference count; a change copies the nodes on its path that another copy still uses, and changes the
//! others in place. Range deletes and size estimates are logarithmic. `BTreeMap` offers neither, and views, flushed
//! states and checkpoints of [`super::MemoryEngine`] are all copies.
//!
//! The priority of a node is a hash of its key, so equal contents have equal shapes, whatever their history.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::Direction;

type Link = Option<Arc<Node>>;

/// # Invariants
/// 1. Keys of `left` are below `key`, keys of `right` above.
/// 2. `(priority, key)` is above that of both children.
/// 3. `bytes` and `len` are the sums over the node and its children.
#[derive(Clone, Debug)]
struct Node {
    key: Bytes,
    value: Bytes,
    priority: u64,
    bytes: u64,
    len: usize,
    left: Link,
    right: Link,
}

impl Node {
    fn new(key: Bytes, value: Bytes, priority: u64) -> Node {
        let bytes = (key.len() + value.len()) as u64;
        Node {
            key,
            value,
            priority,
            bytes,
            len: 1,
            left: None,
            right: None,
        }
    }

    /// Restores invariant 3 after a child changed.
    fn sum_up(&mut self) {
        self.bytes =
            (self.key.len() + self.value.len()) as u64 + bytes(&self.left) + bytes(&self.right);
        self.len = 1 + len(&self.left) + len(&self.right);
    }

    /// Whether this node belongs above one of `priority` and `key`.
    fn is_above(&self, priority: u64, key: &[u8]) -> bool {
        self.priority > priority || (self.priority == priority && *self.key > *key)
    }
}

fn bytes(link: &Link) -> u64 {
    link.as_ref().map_or(0, |node| node.bytes)
}

fn len(link: &Link) -> usize {
    link.as_ref().map_or(0, |node| node.len)
}

/// Spreads the bits of a checksum of the key: keys that differ in their last digits get unrelated priorities.
fn priority_of(key: &[u8]) -> u64 {
    let mut bits = u64::from(crc32c::crc32c(key)) ^ ((key.len() as u64) << 32);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// The map.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    root: Link,
}

impl Tree {
    /// Number of keys.
    pub(super) fn len(&self) -> usize {
        len(&self.root)
    }

    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> u64 {
        bytes(&self.root)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let mut link = &self.root;
        while let Some(node) = link {
            link = match key.cmp(&node.key) {
                Ordering::Less => &node.left,
                Ordering::Greater => &node.right,
                Ordering::Equal => return Some(&node.value),
            };
        }
        None
    }

    /// Sets a key.
    pub(super) fn insert(&mut self, key: Bytes, value: Bytes) {
        let priority = priority_of(&key);
        insert(&mut self.root, key, value, priority);
    }

    /// Removes a key, if there.
    pub(super) fn remove(&mut self, key: &[u8]) {
        // Looking first keeps the paths of other copies shared when there is nothing to do.
        if self.get(key).is_some() {
            remove(&mut self.root, key);
        }
    }

    /// Removes every key in `[start, end)`.
    pub(super) fn remove_range(&mut self, start: &[u8], end: &[u8]) {
        if start >= end || self.range_len(start, end) == 0 {
            return;
        }
        let (below, rest) = split(self.root.take(), start);
        let (_, above) = split(rest, end);
        self.root = join(below, above);
    }

    /// Bytes of the keys in `[start, end)` and their values.
    pub(super) fn range_bytes(&self, start: &[u8], end: &[u8]) -> u64 {
        self.below(end).0.saturating_sub(self.below(start).0)
    }

    /// Number of keys in `[start, end)`.
    pub(super) fn range_len(&self, start: &[u8], end: &[u8]) -> usize {
        self.below(end).1.saturating_sub(self.below(start).1)
    }

    /// Bytes and number of the keys below `key`.
    fn below(&self, key: &[u8]) -> (u64, usize) {
        let (mut sum, mut count) = (0, 0);
        let mut link = &self.root;
        while let Some(node) = link {
            if *node.key < *key {
                sum += node.bytes - bytes(&node.right);
                count += node.len - len(&node.right);
                link = &node.right;
            } else {
                link = &node.left;
            }
        }
        (sum, count)
    }

    /// Calls `each` with the entries within the bounds, in order, until it returns `false`.
    pub(super) fn scan(
        &self,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
        each: &mut dyn FnMut(&Bytes, &Bytes) -> bool,
    ) {
        match direction {
            Direction::Forward => ascend(&self.root, lower, upper, each),
            Direction::Backward => descend(&self.root, lower, upper, each),
        };
    }

    /// Asserts the invariants of [`Node`].
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        fn check(link: &Link) {
            let Some(node) = link else { return };
            for child in [&node.left, &node.right].into_iter().flatten() {
                assert!(
                    node.is_above(child.priority, &child.key),
                    "heap order at {:?}",
                    node.key
                );
            }
            if let Some(left) = &node.left {
                assert!(left.key < node.key, "key order at {:?}", node.key);
            }
            if let Some(right) = &node.right {
                assert!(right.key > node.key, "key order at {:?}", node.key);
            }
            check(&node.left);
            check(&node.right);
            let mut again = Node::clone(node);
            again.sum_up();
            assert_eq!(
                (again.bytes, again.len),
                (node.bytes, node.len),
                "sums at {:?}",
                node.key
            );
        }
        check(&self.root);
    }

    /// Length of the longest path.
    #[cfg(test)]
    pub(super) fn depth(&self) -> usize {
        fn depth(link: &Link) -> usize {
            link.as_ref()
                .map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
        }
        depth(&self.root)
    }
}

fn insert(link: &mut Link, key: Bytes, value: Bytes, priority: u64) {
    match link {
        Some(arc) if arc.key == key => {
            let node = Arc::make_mut(arc);
            node.value = value;
            node.sum_up();
        }
        Some(arc) if arc.is_above(priority, &key) => {
            let node = Arc::make_mut(arc);
            let child = if key < node.key {
                &mut node.left
            } else {
                &mut node.right
            };
            insert(child, key, value, priority);
            node.sum_up();
        }
        _ => {
            // The key is not below here: its node would be above this one.
            let (left, right) = split(link.take(), &key);
            let mut node = Node::new(key, value, priority);
            (node.left, node.right) = (left, right);
            node.sum_up();
            *link = Some(Arc::new(node));
        }
    }
}

/// Removes a key that is there.
fn remove(link: &mut Link, key: &[u8]) {
    let arc = link.as_mut().expect("the key was found before");
    match key.cmp(&arc.key) {
        Ordering::Equal => {
            let (left, right) = match Arc::try_unwrap(link.take().expect("matched above")) {
                Ok(node) => (node.left, node.right),
                Err(shared) => (shared.left.clone(), shared.right.clone()),
            };
            *link = join(left, right);
        }
        order => {
            let node = Arc::make_mut(arc);
            remove(
                if order == Ordering::Less {
                    &mut node.left
                } else {
                    &mut node.right
                },
                key,
            );
            node.sum_up();
        }
    }
}

/// Cuts a tree in keys below `at` and the others.
fn split(link: Link, at: &[u8]) -> (Link, Link) {
    let Some(mut arc) = link else {
        return (None, None);
    };
    let node = Arc::make_mut(&mut arc);
    if *node.key < *at {
        let (below, above) = split(node.right.take(), at);
        node.right = below;
        node.sum_up();
        (Some(arc), above)
    } else {
        let (below, above) = split(node.left.take(), at);
        node.left = above;
        node.sum_up();
        (below, Some(arc))
    }
}

/// Puts two trees together; every key of `low` is below those of `high`.
fn join(low: Link, high: Link) -> Link {
    let (mut low, mut high) = match (low, high) {
        (Some(low), Some(high)) => (low, high),
        (low, high) => return low.or(high),
    };
    if low.is_above(high.priority, &high.key) {
        let node = Arc::make_mut(&mut low);
        node.right = join(node.right.take(), Some(high));
        node.sum_up();
        Some(low)
    } else {
        let node = Arc::make_mut(&mut high);
        node.left = join(Some(low), node.left.take());
        node.sum_up();
        Some(high)
    }
}

fn is_above_lower(key: &[u8], lower: Bound<&[u8]>) -> bool {
    match lower {
        Bound::Included(bound) => key >= bound,
        Bound::Excluded(bound) => key > bound,
        Bound::Unbounded => true,
    }
}

fn is_below_upper(key: &[u8], upper: Bound<&[u8]>) -> bool {
    match upper {
        Bound::Included(bound) => key <= bound,
        Bound::Excluded(bound) => key < bound,
        Bound::Unbounded => true,
    }
}

/// Walks upwards; `false` when `each` ended the walk.
fn ascend(
    link: &Link,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
    each: &mut dyn FnMut(&Bytes, &Bytes) -> bool,
) -> bool {
    let Some(node) = link else { return true };
    let above = is_above_lower(&node.key, lower);
    let below = is_below_upper(&node.key, upper);
    (!above || ascend(&node.left, lower, upper, each))
        && (!(above && below) || each(&node.key, &node.value))
        && (!below || ascend(&node.right, lower, upper, each))
}

/// Walks downwards; `false` when `each` ended the walk.
fn descend(
    link: &Link,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
    each: &mut dyn FnMut(&Bytes, &Bytes) -> bool,
) -> bool {
    let Some(node) = link else { return true };
    let above = is_above_lower(&node.key, lower);
    let below = is_below_upper(&node.key, upper);
    (!below || descend(&node.right, lower, upper, each))
        && (!(above && below) || each(&node.key, &node.value))
        && (!above || descend(&node.left, lower, upper, each))
}
