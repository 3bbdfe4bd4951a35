//! Ids as placement gives them: it tells the last, and how many it gave.

use std::ops::RangeInclusive;

use proto::pdpb;

/// Placement gave others than what it was asked for. None of them is used: an id that nobody gave may be somebody else's (R31).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("placement was asked for {asked} ids and gave {count} that end with {last}")]
pub struct WrongIds {
    /// How many were asked for.
    pub asked: u32,
    /// How many it says it gave.
    pub count: u32,
    /// The last one by its answer.
    pub last: u64,
}

/// The ids of an answer, as many as were asked for; at least one is.
///
/// # Errors
/// It gave more or fewer, or its last id leaves no room for so many above 0.
pub fn given(answer: &pdpb::AllocIdResponse, asked: u32) -> Result<RangeInclusive<u64>, WrongIds> {
    let (last, count) = (answer.id, answer.count);
    let before = last.checked_sub(u64::from(count));
    match before {
        Some(before) if count == asked && asked > 0 => Ok(before + 1..=last),
        _ => Err(WrongIds { asked, count, last }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(last: u64, count: u32) -> pdpb::AllocIdResponse {
        pdpb::AllocIdResponse {
            id: last,
            count,
            ..Default::default()
        }
    }

    #[test]
    fn as_many_ids_are_taken_as_were_asked_for() {
        assert_eq!(given(&answer(9, 1), 1), Ok(9..=9));
        assert_eq!(given(&answer(9, 3), 3), Ok(7..=9));
        assert_eq!(given(&answer(3, 3), 3), Ok(1..=3));
        let end = u64::MAX;
        assert_eq!(given(&answer(end, 2), 2), Ok(end - 1..=end));
    }

    #[test]
    fn ids_that_nobody_gave_are_not_used() {
        for (last, count, asked) in [
            // Fewer, more, none at all.
            (9, 1, 2),
            (9, 3, 2),
            (9, 0, 1),
            (0, 0, 1),
            (0, 1, 1),
            // 0 is no id, and nothing lies below it.
            (2, 3, 3),
            (1_000, u32::MAX, u32::MAX),
            (9, 0, 0),
        ] {
            assert_eq!(
                given(&answer(last, count), asked),
                Err(WrongIds { asked, count, last })
            );
        }
    }
}
