//! How commands print the journal of placement.

use clap::Args;
use proto::pontoon::v1::{JournalEntry, JournalNumber, ReadJournalRequest, journal_entry::Kind};
use serde::Serialize;

use super::{Shown, Target};
use crate::{exit::Result, output};

/// How much of it.
#[derive(Clone, Copy, Debug, Args)]
pub struct Limit {
    /// Show at most so many entries, the newest
    #[arg(long, value_name = "COUNT", default_value = "50")]
    limit: u32,
}

impl Limit {
    /// A question for any entry.
    pub fn query(self) -> ReadJournalRequest {
        ReadJournalRequest {
            limit: self.limit,
            ..Default::default()
        }
    }
}

/// One entry.
#[derive(Clone, Debug, Serialize)]
struct Entry {
    number: u64,
    kind: &'static str,
    /// Unix milliseconds; of a refusal, the first time.
    at_ms: u64,
    who: String,
    #[serde(skip_serializing_if = "is_zero")]
    region: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    operator: u64,
    #[serde(skip_serializing_if = "is_zero")]
    from_store: u64,
    #[serde(skip_serializing_if = "is_zero")]
    to_store: u64,
    text: String,
    inputs: Vec<(String, f64)>,
    candidates: Vec<Candidate>,
    expected: Vec<(String, f64)>,
    measured: Vec<(String, f64)>,
    /// Of refusals: how often, and when last.
    #[serde(skip_serializing_if = "is_zero")]
    count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    last_ms: u64,
    /// Of the placement leader, and what it had heard by then.
    term: u64,
    view_version: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Candidate {
    /// Of a region, where it is led.
    #[serde(skip_serializing_if = "is_zero")]
    store: u64,
    #[serde(skip_serializing_if = "is_zero")]
    region: u64,
    /// Lower is better; absent where it was not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    verdict: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<JournalEntry> for Entry {
    fn from(entry: JournalEntry) -> Self {
        let numbers = |numbers: Vec<JournalNumber>| {
            let pair = |number: JournalNumber| (number.name, number.value);
            numbers.into_iter().map(pair).collect()
        };
        let refused = entry.kind() == Kind::Refused;
        Self {
            number: entry.seq,
            kind: match entry.kind() {
                Kind::Created => "created",
                Kind::Refused => "refused",
                Kind::Step => "step",
                Kind::Done => "done",
                Kind::Cancelled => "cancelled",
                Kind::Command => "command",
                Kind::Effect => "effect",
            },
            at_ms: entry.at_ms,
            who: entry.who,
            region: entry.region_id,
            epoch: entry
                .epoch
                .map(|epoch| format!("{}:{}", epoch.conf_ver, epoch.version)),
            operator: entry.operator_id,
            from_store: entry.from_store,
            to_store: entry.to_store,
            text: entry.text,
            inputs: numbers(entry.inputs),
            candidates: entry
                .candidates
                .into_iter()
                .map(|candidate| Candidate {
                    store: candidate.store_id,
                    region: candidate.region_id,
                    score: candidate.score.is_finite().then_some(candidate.score),
                    verdict: candidate.verdict,
                })
                .collect(),
            expected: numbers(entry.expected),
            measured: numbers(entry.measured),
            count: if refused { entry.count } else { 0 },
            last_ms: if refused { entry.last_ms } else { 0 },
            term: entry.term,
            view_version: entry.view_version,
        }
    }
}

/// Asks for entries and prints them, the newest first.
///
/// # Errors
/// The cluster is not there.
pub async fn print(target: &Target, shown: &Shown, query: ReadJournalRequest) -> Result<()> {
    let entries = target.remote().journal(query).await?;
    let entries: Vec<Entry> = entries.into_iter().map(Entry::from).collect();
    output::print(shown.output, &entries, |entries| {
        if entries.is_empty() {
            return "nothing was decided about it".to_owned();
        }
        entries.iter().map(tell).collect()
    })?;
    Ok(())
}

/// An entry for people: a line, and below it what it rests on.
fn tell(entry: &Entry) -> String {
    let mut text = format!("{}  {:<9} {}", time(entry.at_ms), entry.kind, entry.who);
    for (name, id) in [("region", entry.region), ("operator", entry.operator)] {
        if id != 0 {
            text.push_str(&format!(" {name} {id}"));
        }
    }
    match (entry.from_store, entry.to_store) {
        (0, 0) => {}
        (0, to) => text.push_str(&format!(" to store {to}")),
        (from, 0) => text.push_str(&format!(" from store {from}")),
        (from, to) => text.push_str(&format!(" from store {from} to {to}")),
    }
    if !entry.text.is_empty() {
        text.push_str(&format!(": {}", entry.text));
    }
    if entry.count > 1 {
        text.push_str(&format!(
            " ({} times, last {})",
            output::thousands(entry.count),
            time(entry.last_ms)
        ));
    }
    text.push('\n');
    for (name, numbers) in [
        ("rests on", &entry.inputs),
        ("expects", &entry.expected),
        ("measured", &entry.measured),
    ] {
        if !numbers.is_empty() {
            let numbers = numbers
                .iter()
                .map(|(name, value)| format!("{name} {}", (value * 1e3).round() / 1e3));
            let numbers = numbers.collect::<Vec<_>>().join(", ");
            text.push_str(&format!("    {name}: {numbers}\n"));
        }
    }
    for candidate in &entry.candidates {
        let score = candidate.score.map_or(String::new(), |score| {
            format!(", score {}", (score * 1e3).round() / 1e3)
        });
        let of = match candidate.region {
            0 => format!("store {}", candidate.store),
            region => format!("region {region}"),
        };
        text.push_str(&format!("    {of}: {}{score}\n", candidate.verdict));
    }
    text
}

fn time(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use proto::pontoon::v1::JournalCandidate;

    use super::*;

    #[test]
    fn an_entry_says_what_why_and_how_often() {
        let entry = JournalEntry {
            kind: Kind::Refused.into(),
            who: "repair".into(),
            region_id: 7,
            from_store: 4,
            text: "no store may take it".into(),
            count: 1200,
            last_ms: 61_000,
            inputs: vec![JournalNumber {
                name: "voters".into(),
                value: 2.0,
            }],
            candidates: vec![
                JournalCandidate {
                    store_id: 5,
                    score: f64::INFINITY,
                    verdict: "it is not up".into(),
                    ..Default::default()
                },
                JournalCandidate {
                    region_id: 9,
                    score: 2.0,
                    verdict: "it has an operator".into(),
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        assert_eq!(
            tell(&entry.into()),
            "1970-01-01T00:00:00Z  refused   repair region 7 from store 4: no store may take it (1 200 times, last \
             1970-01-01T00:01:01Z)\n    rests on: voters 2\n    store 5: it is not up\n    region 9: it has an \
             operator, score 2\n"
        );
    }
}
