//! What a graph costs as a function of its groups' widths: a closed form, so that an allocator can ask a million times.

use std::collections::BTreeMap;

use secateur_model::Graph;
use secateur_model::cost::Analysis;
use secateur_model::groups::Groups;

use crate::trace::Trace;

/// The weight of each cost in an allocation, each cost taken as a share of the dense graph's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Prices {
    pub(crate) macs: f64,
    pub(crate) parameters: f64,
}

impl Prices {
    pub(crate) const MACS: Self = Self { macs: 1.0, parameters: 0.0 };
    pub(crate) const PARAMETERS: Self = Self { macs: 0.0, parameters: 1.0 };
    pub(crate) const EVEN: Self = Self { macs: 1.0, parameters: 1.0 };
}

/// The costs of one graph along the traces of its groups.
pub(crate) struct Widths {
    terms: Vec<Term>,
    /// The terms that each group changes.
    touched: Vec<Vec<usize>>,
    macs: f64,
    parameters: f64,
}

/// One tensor: its elements are the product of what its axes keep.
struct Term {
    axes: Vec<Axis>,
    /// Multiply-accumulates an element.
    uses: f64,
}

/// For each group, the indices kept after 0, 1, … of its channels have gone.
type Kept = Vec<(usize, Vec<usize>)>;

struct Axis {
    fixed: usize,
    /// Groups whose channels lie along the axis.
    kept: Kept,
}

impl Axis {
    fn length(&self, gone: impl Fn(usize) -> usize) -> f64 {
        (self.fixed + self.kept.iter().map(|(group, kept)| kept[gone(*group)]).sum::<usize>()) as f64
    }
}

impl Widths {
    pub(crate) fn new(graph: &Graph, analysis: &Analysis, groups: &Groups, traces: &[Trace]) -> Self {
        let mut axes: BTreeMap<(&str, usize), Kept> = BTreeMap::new();
        for (index, group) in groups.groups.iter().enumerate() {
            for site in &group.sites {
                let entry = axes.entry((&site.tensor, site.axis)).or_default();
                if entry.iter().any(|(group, _)| *group == index) {
                    continue; // a tensor read twice
                }
                let mut count = vec![0; group.channels];
                site.channels.iter().flatten().for_each(|&channel| count[channel] += 1);
                let mut kept = vec![count.iter().sum::<usize>()];
                kept.extend(traces[index].order.iter().scan(kept[0], |left, &channel| {
                    *left -= count[channel];
                    Some(*left)
                }));
                entry.push((index, kept));
            }
        }
        let mut uses: BTreeMap<&str, f64> = BTreeMap::new();
        for layer in &analysis.layers {
            let node = graph.nodes.iter().find(|node| node.label() == layer.name);
            let weights = node.and_then(|node| {
                node.inputs.iter().find(|name| {
                    graph.initializers.get(*name).is_some_and(|tensor| tensor.shape() == layer.weights)
                })
            });
            let elements: usize = layer.weights.iter().product();
            if let Some(name) = weights {
                *uses.entry(name).or_default() += layer.dense_macs.get() as f64 / elements.max(1) as f64;
            }
        }
        let mut terms = Vec::new();
        let mut touched = vec![Vec::new(); groups.groups.len()];
        for (name, tensor) in graph.initializers.iter().filter(|(_, tensor)| tensor.as_f32().is_some()) {
            let axes: Vec<Axis> = (0..tensor.shape().len())
                .map(|axis| {
                    let kept = axes.remove(&(name.as_str(), axis)).unwrap_or_default();
                    let moving: usize = kept.iter().map(|(_, kept)| kept[0]).sum();
                    Axis { fixed: tensor.shape()[axis].saturating_sub(moving), kept }
                })
                .collect();
            let mut of: Vec<usize> =
                axes.iter().flat_map(|axis| axis.kept.iter().map(|(group, _)| *group)).collect();
            of.sort_unstable();
            of.dedup();
            of.into_iter().for_each(|group| touched[group].push(terms.len()));
            terms.push(Term { axes, uses: uses.get(name.as_str()).copied().unwrap_or(0.0) });
        }
        let mut widths = Self { terms, touched, macs: 1.0, parameters: 1.0 };
        let all: Vec<f64> = widths.terms.iter().map(|term| term.elements(|_| 0)).collect();
        widths.parameters = all.iter().sum::<f64>().max(1.0);
        widths.macs = widths.terms.iter().zip(&all).map(|(term, n)| term.uses * n).sum::<f64>().max(1.0);
        widths
    }

    /// The price of all that `group` changes, with as many gone as `gone` says.
    pub(crate) fn saving_base(&self, group: usize, gone: &[usize], prices: &Prices) -> f64 {
        self.with(group, gone[group], gone, prices)
    }

    /// The same with `end` of `group`'s channels gone.
    pub(crate) fn with(&self, group: usize, end: usize, gone: &[usize], prices: &Prices) -> f64 {
        let at = |other: usize| if other == group { end } else { gone[other] };
        let price = |term: &Term| {
            term.elements(at) * (prices.macs * term.uses / self.macs + prices.parameters / self.parameters)
        };
        self.touched[group].iter().map(|&term| price(&self.terms[term])).sum()
    }
}

impl Term {
    fn elements(&self, gone: impl Fn(usize) -> usize + Copy) -> f64 {
        self.axes.iter().map(|axis| axis.length(gone)).product()
    }
}
