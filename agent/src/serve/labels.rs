//! Labels that the application tells later, by the request's id: counted as right or wrong answers of their variant.

use std::collections::{BTreeMap, HashMap, VecDeque};

use secateur_common::{Accuracy, VariantId};

/// The last answers with an id, and what was counted since the last report.
#[derive(Default)]
pub(super) struct Labels {
    answers: HashMap<String, Answered>,
    /// Ids with their turns, oldest first. An id that was used again stands here once more.
    order: VecDeque<(u64, String)>,
    turn: u64,
    counted: BTreeMap<VariantId, Accuracy>,
}

struct Answered {
    turn: u64,
    variant: VariantId,
    class: u64,
}

impl Labels {
    /// Remembers what `variant` answered, the oldest forgotten where there are `limit`.
    pub(super) fn answered(&mut self, id: &str, variant: VariantId, output: &[f32], limit: usize) {
        self.turn += 1;
        let (turn, class) = (self.turn, largest(output));
        self.answers.insert(id.to_owned(), Answered { turn, variant, class });
        self.order.push_back((turn, id.to_owned()));
        while self.order.len() > limit {
            let Some((turn, id)) = self.order.pop_front() else { break };
            if self.answers.get(&id).is_some_and(|answered| answered.turn == turn) {
                self.answers.remove(&id);
            }
        }
    }

    /// Counts the label of a request, once; whether the request is known.
    pub(super) fn label(&mut self, id: &str, label: u64) -> bool {
        let Some(answered) = self.answers.remove(id) else { return false };
        let counted = self.counted.entry(answered.variant).or_default();
        *counted = *counted + Accuracy { samples: 1, correct: u64::from(answered.class == label) };
        true
    }

    /// What was counted of `variant` since the last time. Of others nothing is reported any more.
    pub(super) fn take(&mut self, variant: VariantId) -> Accuracy {
        let taken = self.counted.remove(&variant).unwrap_or_default();
        self.counted.clear();
        taken
    }
}

/// The class that the output says.
fn largest(output: &[f32]) -> u64 {
    let mut best = 0;
    for (class, value) in output.iter().enumerate() {
        if *value > output[best] {
            best = class;
        }
    }
    best as u64
}

#[cfg(test)]
mod tests {
    use secateur_common::Digest;

    use super::*;

    #[test]
    fn a_label_counts_once_for_its_variant_while_it_is_remembered() {
        let [one, other] = [1, 2].map(|byte| VariantId(Digest::from_bytes([byte; 32])));
        let mut labels = Labels::default();
        for id in ["a", "b", "c"] {
            labels.answered(id, one, &[0.0, 2.0, 1.0], 3);
        }
        assert!(labels.label("a", 1) && labels.label("b", 2));
        assert!(!labels.label("a", 1), "a label counts once");
        assert_eq!(labels.take(one), Accuracy { samples: 2, correct: 1 });
        assert_eq!(labels.take(one), Accuracy::default());
        labels.answered("c", other, &[1.0, 0.0], 3); // used again: the newest answer counts
        labels.answered("d", one, &[1.0], 3);
        labels.answered("e", one, &[1.0], 3);
        assert!(labels.label("c", 0) && labels.label("d", 0));
        assert_eq!(labels.take(other), Accuracy { samples: 1, correct: 1 });
        assert_eq!(labels.take(one), Accuracy::default(), "only what is in force is reported");
        labels.answered("f", one, &[1.0], 1);
        assert!(!labels.label("e", 0) && labels.label("f", 0), "the oldest is forgotten");
    }
}
