//! What other placement rules would bring.

use proto::{RegionId, StoreId, metapb};

use super::{Rehearsal, StoreMetadata};
use crate::event::{Answer, Refusal, Request};
use crate::rules::{Group, Layout, Places};

impl Rehearsal {
    /// Replaces the rules, and tells of each that asks for more than there is.
    pub(super) fn replace_rules(&mut self, read: u64, groups: &[Group]) -> Result<(), Refusal> {
        let groups = groups.to_vec();
        self.ask(Request::ReplaceRules { read, groups })?;
        let places = self.places()?;
        let up =
            |store: &&StoreMetadata| store.alive && store.store.state() == metapb::StoreState::Up;
        let up: Vec<_> = self.stores.iter().filter(up).collect();
        for placed in places.layout().rules() {
            let admits = |store: &&&StoreMetadata| placed.rule.admits(&store.store.labels);
            let admitted = up.iter().filter(admits).count();
            if admitted < placed.rule.count as usize {
                self.forecast.warnings.push(format!(
                    "rule {} asks for {} peers, and of the stores that are up {admitted} have labels that it admits",
                    placed.name(),
                    placed.rule.count
                ));
            }
        }
        Ok(())
    }

    /// Regions that are not as the rules want them, with the reason.
    pub(super) fn outside(&mut self) -> Vec<(RegionId, String)> {
        let Ok(places) = self.places() else {
            return Vec::new();
        };
        let outside = self.model.regions().filter_map(|region| {
            let key = &region.region.start_key;
            let edges = places.layout().edges_inside(key, &region.region.end_key);
            let cost = places.cost(region, None, None);
            let reason = if !edges.is_empty() {
                "it is not split where rules change".to_owned()
            } else if cost.missing > 0 {
                format!(
                    "no store can take {} of the peers that rules want",
                    cost.missing
                )
            } else if cost.roles > 0 {
                format!("{} of its peers are not what rules want", cost.roles)
            } else {
                return None;
            };
            Some((region.id(), reason))
        });
        outside.collect()
    }

    fn places(&mut self) -> Result<Places, Refusal> {
        let Answer::Rules { set, default } = self.ask(Request::Rules)? else {
            return Err(Refusal::Busy("the copy has no rules".into()));
        };
        let layout = Layout::new(&set, default.count, &default.location_labels);
        let labels = |store: &StoreMetadata| (StoreId(store.store.id), store.store.labels.clone());
        let labels: Vec<_> = self.stores.iter().map(labels).collect();
        let labels = labels.iter().map(|(id, labels)| (*id, &labels[..]));
        Ok(Places::new(layout, labels))
    }
}
