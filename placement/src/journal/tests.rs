use super::*;
use crate::decision::Who;

fn at(seconds: u64) -> Now {
    Now {
        wall_ms: seconds * 1000,
        monotonic: Duration::from_secs(seconds),
    }
}

fn settings() -> JournalSettings {
    JournalSettings::default()
}

fn empty(settings: JournalSettings) -> (Journal, Outbox) {
    let journal = Journal::load(BTreeMap::new(), settings, 1, at(0));
    (journal, Outbox::new(BTreeMap::new()))
}

fn refuse(journal: &mut Journal, region: u64, to: u64, now: Now, outbox: &mut Outbox) {
    let decision = Decision::refused(Who::Repair, Some(RegionId(region)), "no store may take it")
        .between(Some(StoreId(1)), Some(StoreId(to)));
    let about = JournalEntry::default();
    journal.decided(decision, String::new(), about, now, outbox);
}

/// Keys that leave now, and tells that they are applied.
fn written(outbox: &mut Outbox) -> usize {
    let Some(write) = outbox.take().write else {
        return 0;
    };
    outbox.written(write.token);
    write.changes.len()
}

/// What repeats is one entry, and is not written for each time.
#[test]
fn refusals_fold() {
    let (mut journal, mut outbox) = empty(settings());
    for second in 0..200 {
        refuse(&mut journal, 7, 5, at(second), &mut outbox);
        refuse(&mut journal, 8, 5, at(second), &mut outbox);
        journal.on_tick(at(second), &mut outbox);
        // The longer it lasts, the less often.
        let expected = if [0, 60, 180].contains(&second) { 2 } else { 0 };
        assert_eq!(written(&mut outbox), expected, "second {second}");
    }
    let query = JournalQuery {
        store: Some(StoreId(5)),
        limit: 10,
        ..JournalQuery::default()
    };
    let entries = journal.read(query);
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].region_id, entries[0].count), (8, 200));
    assert_eq!((entries[0].at_ms, entries[0].last_ms), (0, 199_000));
    // Another time it is another story.
    journal.on_tick(at(1000), &mut outbox);
    refuse(&mut journal, 7, 5, at(1000), &mut outbox);
    journal.on_tick(at(1001), &mut outbox);
    assert_eq!(journal.read(query).len(), 3);
}

/// A cluster whose every region waits for a store does not fill the journal.
#[test]
fn refusals_of_many_regions_are_bounded() {
    let (mut journal, mut outbox) = empty(settings());
    for region in 1..=3 * REFUSALS_MAX as u64 {
        refuse(&mut journal, region, 5, at(1), &mut outbox);
    }
    journal.on_tick(at(1), &mut outbox);
    let all = JournalQuery {
        limit: usize::MAX,
        ..JournalQuery::default()
    };
    let entries = journal.read(all);
    assert_eq!(entries.len(), REFUSALS_MAX + 1);
    let rest = entries.iter().find(|entry| entry.region_id == 0);
    assert_eq!(rest.map(|rest| rest.count), Some(2 * REFUSALS_MAX as u64));
}

#[test]
fn the_oldest_entries_go() {
    let (mut journal, mut outbox) = empty(JournalSettings {
        bytes_max: 2000,
        ..settings()
    });
    let all = JournalQuery {
        limit: usize::MAX,
        ..JournalQuery::default()
    };
    for number in 0..100 {
        let entry = JournalEntry {
            operator_id: number + 1,
            text: "x".repeat(100),
            ..JournalEntry::default()
        };
        journal.write(entry, at(number), &mut outbox);
    }
    journal.on_tick(at(100), &mut outbox);
    let entries = journal.read(all);
    assert_eq!(entries[0].operator_id, 100, "the newest stays");
    assert!((10..20).contains(&entries.len()), "{}", entries.len());
    assert!(journal.bytes <= 2000);
    let week = settings().age_max.as_secs();
    journal.on_tick(at(week + 95), &mut outbox);
    assert_eq!(journal.read(all).len(), 5);
    let _ = outbox.take();
}

/// What an earlier leader wrote is there, numbers go on, and refusals go on counting.
#[test]
fn a_new_leader_goes_on() {
    let (mut journal, mut outbox) = empty(settings());
    refuse(&mut journal, 7, 5, at(1), &mut outbox);
    journal.on_tick(at(1), &mut outbox);
    let write = outbox.take().write.expect("a write");
    let pairs: BTreeMap<Bytes, Bytes> = write
        .changes
        .into_iter()
        .filter_map(|change| Some((change.key, change.value?)))
        .collect();
    let image = state::Image::load(&pairs).expect("it decodes");
    let mut journal = Journal::load(image.journal, settings(), 2, at(5));
    refuse(&mut journal, 7, 5, at(6), &mut outbox);
    refuse(&mut journal, 9, 5, at(6), &mut outbox);
    journal.on_tick(at(7), &mut outbox);
    let entries = journal.read(JournalQuery {
        store: Some(StoreId(5)),
        limit: 10,
        ..JournalQuery::default()
    });
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.seq, entry.region_id, entry.count, entry.term))
        .collect();
    assert_eq!(told, [(2, 9, 1, 2), (1, 7, 2, 1)]);
}
