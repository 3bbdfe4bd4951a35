//! One run: a faulty phase in which nothing may break, then a healed one that must converge (R37).

use super::settings::Plan;
use super::world::World;
use crate::rule::{Rule, Violation};
use crate::run::{Outcome, catching};

/// Events between two looks at whether a healed world has converged.
const LOOK_EVERY: u64 = 50;

/// Runs `plan`. A panic of the code under test is a violation like any other.
pub fn run(plan: &Plan) -> Outcome {
    let mut world = match World::new(plan) {
        Ok(world) => world,
        Err(violation) => return Outcome::failed(violation),
    };
    let result = catching(|| drive(&mut world, plan));
    Outcome {
        violation: result.err(),
        events: world.events(),
        digest: world.digest(),
        happened: world.counters().table(),
        trace: world.into_trace(),
    }
}

fn drive(world: &mut World, plan: &Plan) -> Result<(), Violation> {
    while world.events() < plan.events {
        world.advance()?;
    }
    world.heal()?;
    let until = world.now() + world.healing_limit();
    loop {
        for _ in 0..LOOK_EVERY {
            world.advance()?;
        }
        match world.converged() {
            Ok(()) => return Ok(()),
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
}
