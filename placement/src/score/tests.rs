use proptest::prelude::*;

use super::*;

const SIZE: Shape = Shape {
    floor: 1.0,
    tolerance: 0.02,
    grain: 1.0,
    steep: true,
};

fn column(amounts: &[f64], capacities: &[f64], shape: Shape) -> Column {
    let load = |(amount, capacity): (&f64, &f64)| Load {
        amount: *amount,
        capacity: *capacity,
    };
    Column::new(amounts.iter().zip(capacities).map(load).collect(), shape)
}

/// Stores of equal capacity with these sizes and nothing else.
fn sized(amounts: &[f64]) -> Scores {
    let stores = (1..=amounts.len() as u64).map(StoreId).collect();
    let capacities = vec![1e6; amounts.len()];
    let nothing = vec![0.0; amounts.len()];
    let columns = Dimension::ALL.map(|dimension| {
        let amounts = if dimension == Dimension::Size {
            amounts
        } else {
            &nothing
        };
        column(amounts, &capacities, SIZE)
    });
    Scores::new(stores, columns)
}

fn moved(from: usize, to: usize, amount: f64) -> Shifts {
    Shifts(vec![Shift {
        dimension: Dimension::Size,
        from,
        to,
        amount,
    }])
}

/// REGIONS §9: for u²/2 a move is accepted if `u_i − u_j ≥ b/2·(1/c_i + 1/c_j) + h`.
#[test]
fn the_difference_must_exceed_the_move_and_the_hysteresis() {
    let accepted = |from: f64, to: f64| {
        let scores = sized(&[from, to, 20.0, 20.0]);
        scores.judge(Dimension::Size, &moved(0, 1, 1.0)).accepted
    };
    assert!(accepted(21.01, 18.99));
    assert!(
        !accepted(20.99, 19.01),
        "one region and one region of hysteresis"
    );
    assert!(!accepted(19.0, 21.0), "uphill");
    assert!(!accepted(20.0, 20.0));
}

/// At a mean of 1000 regions, two percent are twenty.
#[test]
fn the_hysteresis_grows_with_the_mean() {
    let scores = sized(&[1010.0, 990.0, 1000.0, 1000.0]);
    assert!(!scores.judge(Dimension::Size, &moved(0, 1, 1.0)).accepted);
    let scores = sized(&[1011.0, 989.0, 1000.0, 1000.0]);
    assert!(scores.judge(Dimension::Size, &moved(0, 1, 1.0)).accepted);
}

/// Of two stores with equal differences to a third, the one that is nearly full is relieved.
#[test]
fn above_full_it_is_steeper() {
    let fall = |from: f64| {
        let column = column(&[from, from - 10.0], &[100.0, 100.0], SIZE);
        column.fall(0, 1, 1.0) / column.scale
    };
    assert!(fall(90.0) > 2.0 * fall(60.0));
    assert!((fall(60.0) - fall(70.0)).abs() < 1e-9);
}

/// A store of twice the capacity takes twice as much.
#[test]
fn capacity_counts() {
    let stores = vec![StoreId(1), StoreId(2)];
    let columns = Dimension::ALL.map(|_| column(&[30.0, 60.0], &[100.0, 200.0], SIZE));
    let scores = Scores::new(stores, columns);
    for (from, to) in [(0, 1), (1, 0)] {
        let verdict = scores.judge(Dimension::Size, &moved(from, to, 1.0));
        assert!(!verdict.accepted, "{from} to {to}");
    }
}

/// What makes another dimension worse than its own gets better is not moved.
#[test]
fn balance_does_not_pay_with_another_dimension() {
    let stores = vec![StoreId(1), StoreId(2)];
    let columns = Dimension::ALL.map(|dimension| match dimension {
        Dimension::Size => column(&[30.0, 20.0], &[1e6, 1e6], SIZE),
        _ => column(&[0.0, 100.0], &[1.0, 1.0], SIZE),
    });
    let scores = Scores::new(stores, columns);
    let region = |written_keys| Burden {
        size: 1,
        written_keys,
        ..Burden::default()
    };
    let verdict = |written_keys| {
        let shifts = Shifts::default().peer(&region(written_keys), 0, 1);
        scores.judge(Dimension::Size, &shifts)
    };
    assert!(verdict(0).accepted);
    assert!(!verdict(50).accepted);
}

/// The hottest store gets no hotter, whatever the sum gains.
#[test]
fn a_hot_move_raises_no_maximum() {
    let stores = vec![StoreId(1), StoreId(2), StoreId(3)];
    let columns = Dimension::ALL.map(|dimension| match dimension {
        Dimension::Proposals => column(&[100.0, 10.0, 10.0], &[1.0; 3], SIZE),
        Dimension::Leaders => column(&[10.0, 10.0, 10.0], &[1.0; 3], SIZE),
        Dimension::Reads => column(&[10.0, 100.0, 10.0], &[1.0; 3], SIZE),
        _ => column(&[0.0; 3], &[1.0; 3], SIZE),
    });
    let scores = Scores::new(stores, columns);
    let region = Burden {
        proposals: 40,
        reads: 5,
        ..Burden::default()
    };
    let own = [Dimension::Proposals];
    let verdict = |to| scores.judge_hot(&own, &Shifts::default().leader(&region, 0, to));
    assert!(verdict(2).accepted);
    let refused = verdict(1);
    assert!(
        refused.fall > 0.0 && !refused.accepted,
        "store 2 would be read from even more"
    );
}

proptest! {
    /// What a move is said to bring is what it brings.
    #[test]
    fn the_fall_is_the_difference(
        amounts in prop::collection::vec(0.0f64..1e6, 2..8),
        from in 0usize..8,
        to in 0usize..8,
        part in 0.0f64..1.0,
    ) {
        let (from, to) = (from % amounts.len(), to % amounts.len());
        let mut scores = sized(&amounts);
        let shifts = moved(from, to, amounts[from] * part);
        let before = scores.potential();
        let fall = scores.fall(&shifts);
        scores.apply(&shifts);
        let difference = before - scores.potential();
        prop_assert!((difference - fall).abs() <= 1e-9 * before.max(1.0), "{difference} {fall}");
    }
}
