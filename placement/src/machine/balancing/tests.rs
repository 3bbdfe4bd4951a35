use super::*;
use crate::decision::Candidate;
use crate::outbox::Outbox;

fn balancer() -> Balancer {
    let now = Now {
        wall_ms: 0,
        monotonic: Duration::ZERO,
    };
    let settings = Settings::default();
    let mut outbox = Outbox::new(BTreeMap::new());
    let operators = Operators::load(BTreeMap::new(), now, &settings, &mut outbox);
    Balancer::new(1, now, &settings, &operators)
}

fn refusal(reason: &'static str, to: u64) -> Decision {
    let refusal = Decision::refused(Who::BalanceRegion, None, reason);
    refusal.between(Some(StoreId(1)), Some(StoreId(to)))
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// REGIONS §9: refusals fold per store pair and reason. That something is refused for store 4 hides nothing of store 5.
#[test]
fn a_refusal_for_another_store_is_news() {
    let mut balancer = balancer();
    assert!(balancer.is_news(&refusal("it has no room", 4), at(0)));
    assert!(!balancer.is_news(&refusal("it has no room", 4), at(59)));
    assert!(balancer.is_news(&refusal("it has no room", 5), at(59)));
    assert!(balancer.is_news(&refusal("it is stopping", 4), at(59)));
    assert!(balancer.is_news(&refusal("it has no room", 4), at(60)));
}

/// An even cluster is silent, whichever stores are at its ends, but for stores that come to be absent.
#[test]
fn that_stores_are_even_is_news_once_an_hour() {
    let mut balancer = balancer();
    let absent = |store: u64, why: &'static str| {
        refusal(scheduler::EVEN, 9).candidates(vec![Candidate {
            store: StoreId(store),
            region: None,
            score: f64::INFINITY,
            verdict: why.into(),
        }])
    };
    assert!(balancer.is_news(&refusal(scheduler::EVEN, 4), at(0)));
    assert!(!balancer.is_news(&refusal(scheduler::EVEN, 5), at(3599)));
    assert!(balancer.is_news(&absent(5, "it is not up"), at(3599)));
    assert!(!balancer.is_news(&absent(5, "it is not up"), at(7198)));
    assert!(balancer.is_news(&absent(5, "it has no room"), at(7198)));
    assert!(balancer.is_news(&refusal(scheduler::EVEN, 5), at(7199)));
}

/// Pairs of a large cluster are many, and the journal is bounded.
#[test]
fn news_are_bounded() {
    let mut balancer = balancer();
    let mut told = |from: u64| {
        let pairs = 0..600u64;
        let news = pairs.filter(|pair| {
            let refusal = refusal("it has no room", from + pair);
            balancer.is_news(&refusal, at(from + pair / 10))
        });
        news.count()
    };
    assert_eq!(told(1000), REFUSALS_MAX);
    assert_eq!(told(2000), REFUSALS_MAX);
    assert!(balancer.refused.len() <= 2 * REFUSALS_MAX);
}
