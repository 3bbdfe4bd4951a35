use super::*;

fn names(layout: &Layout) -> Vec<(&str, &str, &str)> {
    layout
        .members()
        .map(|member| (&*member.name, &*member.addr, &*member.status_addr))
        .collect()
}

#[test]
fn ports_follow_the_defaults_and_the_offset() {
    let layout = Layout::new(2, 3, 0, 1).unwrap();
    assert_eq!(
        names(&layout),
        [
            ("placement-1", "127.0.0.1:2379", "127.0.0.1:2379"),
            ("placement-2", "127.0.0.1:2380", "127.0.0.1:2380"),
            ("placement-3", "127.0.0.1:2381", "127.0.0.1:2381"),
            ("store-1", "127.0.0.1:20160", "127.0.0.1:20180"),
            ("store-2", "127.0.0.1:20161", "127.0.0.1:20181"),
        ]
    );
    let layout = Layout::new(1, 1, 1000, 2).unwrap();
    assert_eq!(
        names(&layout),
        [
            ("placement-1", "127.0.0.1:3379", "127.0.0.1:3379"),
            ("store-1", "127.0.0.1:21160", "127.0.0.1:21180"),
        ]
    );
}

#[test]
fn counts_that_make_no_cluster_are_refused() {
    for (stores, placements, offset) in [
        (0, 3, 0),
        (STORES_MAX + 1, 3, 0),
        (3, 2, 0),
        (3, 7, 0),
        (3, 3, 60000),
    ] {
        let failure = Layout::new(stores, placements, offset, 1).unwrap_err();
        assert_eq!(failure.kind(), Kind::Usage, "{failure}");
    }
}

#[test]
fn the_description_survives_being_written() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Layout::read(dir.path()).unwrap(), None);
    let mut layout = Layout::new(3, 3, 7, 2).unwrap();
    layout.stores[1].pid = Some(12);
    layout.stores[1].began = Some(99);
    layout.write(dir.path()).unwrap();
    assert_eq!(Layout::read(dir.path()).unwrap(), Some(layout));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(
        left.len(),
        1,
        "nothing but the description is left: {left:?}"
    );
}

#[test]
fn a_damaged_or_newer_description_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(Layout::path(dir.path()), "{").unwrap();
    let failure = Layout::read(dir.path()).unwrap_err();
    assert_eq!(failure.kind(), Kind::Directory, "{failure}");
    fs::write(Layout::path(dir.path()), "{\"format\": 9, \"more\": []}").unwrap();
    let failure = Layout::read(dir.path()).unwrap_err();
    assert!(failure.to_string().contains("has format 9"), "{failure}");
}

#[test]
fn an_unknown_process_is_refused_with_the_known_ones() {
    let mut layout = Layout::new(1, 1, 0, 1).unwrap();
    let failure = layout.member_mut("store-2").unwrap_err();
    assert_eq!(failure.kind(), Kind::NotFound);
    assert!(
        failure.to_string().contains("placement-1, store-1"),
        "{failure}"
    );
}

#[test]
fn two_commands_on_one_folder_exclude_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let held = Cluster::create(dir.path(), Wanted::default()).unwrap();
    let failure = Cluster::create(dir.path(), Wanted::default())
        .err()
        .unwrap();
    assert_eq!(failure.kind(), Kind::Directory, "{failure}");
    drop(held);
    assert!(Cluster::create(dir.path(), Wanted::default()).is_ok());
}

#[test]
fn a_folder_with_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let failure = Cluster::create(dir.path(), Wanted::default())
        .err()
        .unwrap();
    assert_eq!(failure.kind(), Kind::Directory);
    assert!(failure.to_string().contains("thesis.tex"), "{failure}");
    assert_eq!(
        Cluster::open(dir.path()).err().unwrap().kind(),
        Kind::NotFound
    );
}

#[test]
fn options_that_contradict_the_cluster_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    Layout::new(3, 3, 0, 1).unwrap().write(dir.path()).unwrap();
    let wanted = Wanted {
        stores: Some(3),
        api_version: Some(2),
        ..Wanted::default()
    };
    let failure = Cluster::create(dir.path(), wanted).err().unwrap();
    assert!(
        failure.to_string().contains("--api-version 1, not 2"),
        "{failure}"
    );
}

#[test]
fn generated_configurations_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::create(dir.path(), Wanted::default()).unwrap();
    let text = cluster.configuration("store-2").unwrap();
    let store: StoreConfig = config::parse(&text, "store-2.toml").unwrap();
    assert_eq!(store.addr, "127.0.0.1:20161");
    assert_eq!(store.status_addr, "127.0.0.1:20181");
    assert_eq!(store.placement.len(), 3);
    let text = cluster.configuration("placement-3").unwrap();
    let placement: PlacementConfig = config::parse(&text, "placement-3.toml").unwrap();
    assert_eq!(placement.addr, "127.0.0.1:2381");
    assert_eq!(placement.members.len(), 3);
}

#[test]
fn a_cluster_that_found_its_port_taken_starts_with_another_offset() {
    let dir = tempfile::tempdir().unwrap();
    // Any port that placement can be given by an offset.
    let taken =
        (10_000..40_000).find_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok());
    let taken = taken.expect("a free port");
    let offset = taken.local_addr().unwrap().port() - 2379;
    let wanted = |port_offset| Wanted {
        stores: Some(1),
        placements: Some(1),
        port_offset: Some(port_offset),
        api_version: None,
    };
    let mut cluster = Cluster::create(dir.path(), wanted(offset)).unwrap();
    let failure = cluster.start().unwrap_err();
    assert_eq!(failure.kind(), Kind::PortTaken, "{failure}");
    assert!(!cluster.was_started());
    drop(cluster);
    let again = Cluster::create(dir.path(), wanted(7));
    assert_eq!(again.unwrap().layout().port_offset, 7);
}
