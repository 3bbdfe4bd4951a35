//! Commands of administrators, checked against the view and turned into plans.
//!
//! A refusal here is an answer to a person: it says what stands in the way. What only the region's leader can judge
//! (lag, the lane, keys that moved meanwhile) is judged there, and shows as a cancelled operator.

use bytes::Bytes;
use proto::{StoreId, metapb};

use crate::checker::has_room;
use crate::event::{Now, Refusal};
use crate::keyspace;
use crate::operator::{Kind, Priority, SPLIT_KEYS_MAX, Step};
use crate::operators::Plan;
use crate::regions::RegionInfo;
use crate::rules::Places;
use crate::settings::Settings;
use crate::stores::Stores;

/// Keys of one command at the most.
const KEYS_MAX: usize = 1024;
/// Bytes of all keys of one command at the most: they are written into one record, and every step writes it again.
const KEYS_BYTES_MAX: usize = 1 << 20;
/// Length of a key at the most, in its encoded form (RELIABILITY F27).
const KEY_BYTES_MAX: usize = 10 << 10;

/// Plans a split. More keys than one command may hold become several steps.
pub(crate) fn split(
    region: &RegionInfo,
    mut keys: Vec<Bytes>,
    api_version: u32,
) -> Result<Plan, Refusal> {
    keys.sort_unstable();
    keys.dedup();
    if keys.is_empty() || keys.len() > KEYS_MAX {
        return Err(Refusal::Invalid(format!(
            "a split takes 1 to {KEYS_MAX} keys"
        )));
    }
    let bytes: usize = keys.iter().map(Bytes::len).sum();
    if bytes > KEYS_BYTES_MAX {
        return Err(Refusal::Invalid(format!(
            "the keys have {bytes} bytes, {KEYS_BYTES_MAX} are allowed"
        )));
    }
    for key in &keys {
        check_key(key)?;
        if !region.contains(key) || *key == region.region.start_key {
            return Err(Refusal::Invalid(format!(
                "a key is not inside region {}",
                region.id()
            )));
        }
        if !keyspace::valid_boundary(api_version, key) {
            return Err(Refusal::Invalid(
                "a key is not memcomparable-encoded, as boundaries are with api-version 2".into(),
            ));
        }
    }
    if region.is_joint() {
        return Err(joint(region));
    }
    let steps = split_steps(&keys);
    let cause = format!("an administrator splits it at {} keys", keys.len());
    Ok(Plan {
        kind: Kind::Split,
        priority: Priority::Admin,
        steps,
        cause,
    })
}

/// The steps that split a region at these keys, in order: from right to left, since it keeps what is left of the first.
pub(crate) fn split_steps(keys: &[Bytes]) -> Vec<Step> {
    let steps = keys.rchunks(SPLIT_KEYS_MAX);
    steps.map(|keys| Step::Split(keys.to_vec())).collect()
}

/// Refuses a key that no region can hold: lookups keep keys while they wait.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Refusal> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Refusal::Invalid(format!(
            "a key has {} bytes, {KEY_BYTES_MAX} are allowed",
            key.len()
        )));
    }
    Ok(())
}

/// Checks a move; the plan is [`move_steps`] with a fresh peer id.
pub(crate) fn check_move<'r>(
    region: &'r RegionInfo,
    from: StoreId,
    to: StoreId,
    stores: &Stores,
    settings: &Settings,
    now: Now,
) -> Result<&'r metapb::Peer, Refusal> {
    let peer = region.peer_on(from).ok_or_else(|| {
        Refusal::Invalid(format!(
            "region {} has no peer on store {from}",
            region.id()
        ))
    })?;
    if region.is_joint() {
        return Err(joint(region));
    }
    if peer.role() != metapb::PeerRole::Voter {
        return Err(Refusal::Invalid(format!(
            "the peer on store {from} is not a voter"
        )));
    }
    if let Some(there) = region.peer_on(to) {
        return Err(Refusal::Invalid(format!(
            "store {to} has peer {} of region {} already",
            there.id,
            region.id()
        )));
    }
    if !stores.contains(to) {
        return Err(Refusal::StoreNotFound(to));
    }
    if !stores.takes_peers(to, now, settings.store_down_after) {
        return Err(Refusal::Invalid(format!("store {to} is not up")));
    }
    if stores.stopping(to) {
        return Err(stopping(to));
    }
    if !has_room(stores, to, region.bytes) {
        return Err(Refusal::Invalid(format!(
            "store {to} has no room for region {}",
            region.id()
        )));
    }
    Ok(peer)
}

/// The voter that leads when the one on `from` goes: where rules want the leader, if somebody is there. Nobody on a store
/// that is stopping, but for who leads already.
pub(crate) fn heir<'r>(
    region: &'r RegionInfo,
    from: StoreId,
    places: &Places,
    stores: &Stores,
) -> Option<&'r metapb::Peer> {
    let leads = |peer: &metapb::Peer| region.leader.is_some_and(|leader| leader.id == peer.id);
    let stays = |peer: &&metapb::Peer| {
        peer.store_id != from.0
            && region.may_lead(peer.id)
            && (leads(peer) || !stores.stopping(StoreId(peer.store_id)))
    };
    let wrong = |peer: &&metapb::Peer| !places.may_lead(region, StoreId(peer.store_id));
    region.voters().filter(stays).min_by_key(wrong)
}

/// Whether a move of a leader takes leadership along: rules want it where the voter goes, and from nobody else.
pub(crate) fn leads_along(
    region: &RegionInfo,
    heir: StoreId,
    from: StoreId,
    to: StoreId,
    places: &Places,
) -> bool {
    !places.may_lead(region, heir) && places.may_lead_moved(region, from, to)
}

/// The steps that move the voter `from` to the new peer `to` (REGIONS §3). Leadership moves as late as possible, so that
/// a move that fails before costs none.
pub(crate) fn move_steps(
    region: &RegionInfo,
    from: &metapb::Peer,
    to: &metapb::Peer,
    places: &Places,
    stores: &Stores,
) -> Vec<Step> {
    let leads = region
        .leader
        .as_ref()
        .is_some_and(|leader| leader.id == from.id);
    let (old, new) = (StoreId(from.store_id), StoreId(to.store_id));
    let heir = heir(region, old, places, stores)
        .filter(|heir| !leads || !leads_along(region, StoreId(heir.store_id), old, new, places));
    let mut steps = vec![Step::AddLearner(*to), Step::CatchUp(*to)];
    let swap = |promote: &[&metapb::Peer], demote: &[&metapb::Peer]| Step::Swap {
        promote: promote.iter().map(|peer| *(*peer)).collect(),
        demote: demote.iter().map(|peer| *(*peer)).collect(),
    };
    match heir {
        Some(heir) => {
            if leads {
                steps.push(Step::TransferLeader(*heir));
            }
            steps.push(swap(&[to], &[from]));
        }
        // Nobody else can lead, or should: the new peer must vote before the old one may go.
        None => {
            steps.push(swap(&[to], &[]));
            steps.push(Step::TransferLeader(*to));
            steps.push(swap(&[], &[from]));
        }
    }
    steps.push(Step::RemoveLearner(*from));
    steps
}

/// The steps by which a new peer takes the place of a voter, one of several that follow each other. Who is to go hands its
/// leadership over when the change of roles is its turn; a lone voter before that.
pub(crate) fn take_place(
    region: &RegionInfo,
    from: &metapb::Peer,
    to: &metapb::Peer,
    places: &Places,
    stores: &Stores,
) -> Vec<Step> {
    if region.voters().count() == 1 {
        return move_steps(region, from, to, places, stores);
    }
    vec![
        Step::AddLearner(*to),
        Step::CatchUp(*to),
        Step::Swap {
            promote: vec![*to],
            demote: vec![*from],
        },
        Step::RemoveLearner(*from),
    ]
}

/// The steps that take a voter away.
pub(crate) fn remove_steps(peer: &metapb::Peer) -> Vec<Step> {
    let demotion = Step::Swap {
        promote: Vec::new(),
        demote: vec![*peer],
    };
    vec![demotion, Step::RemoveLearner(*peer)]
}

/// The steps that add a voter.
pub(crate) fn add_steps(to: &metapb::Peer) -> Vec<Step> {
    vec![
        Step::AddLearner(*to),
        Step::CatchUp(*to),
        Step::Swap {
            promote: vec![*to],
            demote: Vec::new(),
        },
    ]
}

/// Plans a transfer of leadership.
pub(crate) fn transfer(
    region: &RegionInfo,
    to: StoreId,
    stores: &Stores,
    settings: &Settings,
    now: Now,
) -> Result<Plan, Refusal> {
    let peer = region.peer_on(to).ok_or_else(|| {
        Refusal::Invalid(format!("region {} has no peer on store {to}", region.id()))
    })?;
    if peer.role() != metapb::PeerRole::Voter {
        return Err(Refusal::Invalid(format!(
            "the peer on store {to} is not a voter"
        )));
    }
    if stores.down(to, now, settings.store_down_after) {
        return Err(Refusal::Invalid(format!("store {to} is down")));
    }
    if stores.stopping(to) {
        return Err(stopping(to));
    }
    Ok(Plan {
        kind: Kind::TransferLeader,
        priority: Priority::Admin,
        steps: vec![Step::TransferLeader(*peer)],
        cause: format!("an administrator makes store {to} lead it"),
    })
}

fn stopping(store: StoreId) -> Refusal {
    Refusal::Busy(format!("store {store} is stopping"))
}

fn joint(region: &RegionInfo) -> Refusal {
    Refusal::Busy(format!("region {} is changing its members", region.id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record above what the region takes as one entry could not be written, and its leader would give up.
    #[test]
    fn a_split_fits_one_write() {
        let region = RegionInfo {
            region: metapb::Region {
                id: 1,
                ..Default::default()
            },
            ..RegionInfo::default()
        };
        let keys = |count: usize| -> Vec<Bytes> {
            let key = |number| format!("{number:0>KEY_BYTES_MAX$}").into();
            (1..=count).map(key).collect()
        };
        let fit = KEYS_BYTES_MAX / KEY_BYTES_MAX;
        assert!(split(&region, keys(fit), 1).is_ok());
        let Err(Refusal::Invalid(reason)) = split(&region, keys(fit + 1), 1) else {
            panic!("more than {KEYS_BYTES_MAX} bytes are refused");
        };
        assert!(reason.contains("1048576"), "{reason}");
    }
}
