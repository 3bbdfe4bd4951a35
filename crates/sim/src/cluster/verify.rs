//! Who asks whether all members of a region store the same, and what is said.

use proto::{RegionId, StoreId};
use store::event::{Event, Outcome, RequestId, Verification};

use super::settings::TICK;
use super::world::{Action, World};
use crate::rule::{Rule, Violation};

impl World {
    /// Asks a store about a region that it has, whether it leads that or not.
    pub(super) fn verify(&mut self) -> Result<(), Violation> {
        if self.healing {
            return Ok(());
        }
        let delay = self.verify_random.between(TICK, 40 * TICK);
        self.schedule.after(delay, Action::Verify);
        let here: Vec<(StoreId, RegionId)> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.store.is_some())
            .flat_map(|(store, node)| node.views.keys().map(|region| (*store, *region)))
            .collect();
        if here.is_empty() {
            return Ok(());
        }
        let place = self.verify_random.below(here.len() as u64) as usize;
        let (store, region) = here[place];
        let request = self.stored.ask(store);
        self.step(store, Event::Verify { request, region })
    }

    /// In this world nothing rots: whoever differs is wrongly accused.
    pub(super) fn learn_verified(
        &mut self,
        request: Option<RequestId>,
        verification: &Verification,
    ) -> Result<(), Violation> {
        if verification.members.iter().any(|member| member.differs) {
            return Err(Violation {
                rule: Rule::Determinism,
                text: format!("Stored data is found to differ: {verification:?}"),
            });
        }
        match request {
            Some(request) => {
                self.stored.answer(request)?;
                self.count("verified on demand");
            }
            None => self.count("verified in turn"),
        }
        for member in &verification.members {
            match member.outcome {
                Outcome::Sum(_) => {}
                Outcome::Busy => self.count("member busy"),
                Outcome::Silent => self.count("member silent"),
                Outcome::Unreadable => self.count("member unreadable"),
            }
        }
        Ok(())
    }
}
