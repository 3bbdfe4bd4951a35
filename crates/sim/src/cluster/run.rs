//! One run of a cluster: a faulty phase, then a healed one that must converge (R37), then what clients saw is judged.

use super::world::World;
use crate::group::settings::Plan;
use crate::rule::{Rule, Violation};
use crate::run::{Outcome, catching};

/// Events between two looks at whether a healed cluster has converged.
const LOOK_EVERY: u64 = 200;

/// Runs `plan` on a cluster. A panic of the code under test is a violation like any other.
pub fn run(plan: &Plan) -> Outcome {
    let mut world = None;
    let result = catching(|| {
        world = Some(World::new(plan)?);
        Ok(())
    });
    let Some(mut world) = world else {
        return Outcome {
            violation: result.err(),
            ..Outcome::default()
        };
    };
    let result = catching(|| drive(&mut world, plan));
    Outcome {
        violation: result.err(),
        events: world.events(),
        digest: world.digest(),
        happened: world
            .happened()
            .iter()
            .map(|(what, count)| ((*what).to_owned(), *count))
            .collect(),
        trace: world.into_trace(),
    }
}

fn drive(world: &mut World, plan: &Plan) -> Result<(), Violation> {
    while world.events() < plan.events {
        world.advance()?;
    }
    // What clients saw so far is judged even if the cluster never comes to rest.
    world.check_histories()?;
    world.heal()?;
    let until = world.now() + world.healing_limit();
    loop {
        for _ in 0..LOOK_EVERY {
            world.advance()?;
        }
        match world.converged() {
            Ok(()) => break,
            Err(missing) if world.now() > until => {
                return Err(Violation {
                    rule: Rule::Healing,
                    text: format!(
                        "not converged {} ms after faults ended: {missing}",
                        world.healing_limit() / 1000
                    ),
                });
            }
            Err(_) => {}
        }
    }
    world.check_contents()?;
    world.check_histories()
}
