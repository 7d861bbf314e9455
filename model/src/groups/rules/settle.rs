//! What is cut of a value must be a slab: channels along one axis.

use super::super::labels::{Label, NONE, Spread};
use super::Finder;

impl Finder<'_> {
    /// Leaves labels of every value and constant varying along one axis: those along others are united. What would
    /// then go as a whole stays.
    pub(super) fn make_slabs(&mut self) {
        let all: Vec<Spread> =
            self.spreads.values().chain(self.sites.iter().map(|site| &site.spread)).cloned().collect();
        for spread in &all {
            let mut spread = self.free(spread);
            // The longest axis keeps the most to choose from.
            let varying = spread.varying();
            let Some(&kept) = varying.iter().rev().max_by_key(|&&axis| spread.dims[axis]) else { continue };
            for axis in varying.into_iter().filter(|&axis| axis != kept) {
                self.unite_rows(&spread, axis);
                spread = spread.first_along(axis);
            }
        }
        for spread in &all {
            let spread = self.free(spread);
            if let [label] = spread.labels[..] {
                self.unions.freeze(label, super::ALL_TOGETHER);
            }
        }
    }

    /// Labels by their roots, those that cannot be removed as none.
    pub(in super::super) fn free(&self, spread: &Spread) -> Spread {
        spread.map(|label: Label| self.unions.free_root(label).unwrap_or(NONE))
    }
}
