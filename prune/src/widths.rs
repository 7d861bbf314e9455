//! What a graph costs as a function of its groups' widths: a closed form, so that an allocator can ask a million times.

use std::collections::BTreeMap;

use secateur_model::cost::{self, Analysis};
use secateur_model::groups::Groups;
use secateur_model::shape;
use secateur_model::timing::{Energy, Timing, traffic};
use secateur_model::{Graph, Tensor};

use crate::PruneError;
use crate::oracle::unrunnable;
use crate::trace::Trace;

/// The weight of each cost in an allocation, each cost taken as a share of the dense graph's.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Prices {
    pub(crate) macs: f64,
    pub(crate) parameters: f64,
    pub(crate) time: f64,
    pub(crate) energy: f64,
}

impl Prices {
    pub(crate) const NONE: Self = Self { macs: 0.0, parameters: 0.0, time: 0.0, energy: 0.0 };
    pub(crate) const MACS: Self = Self { macs: 1.0, ..Self::NONE };
    pub(crate) const PARAMETERS: Self = Self { parameters: 1.0, ..Self::NONE };
    pub(crate) const TIME: Self = Self { time: 1.0, ..Self::NONE };
    pub(crate) const ENERGY: Self = Self { energy: 1.0, ..Self::NONE };

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    fn zip(self, other: Self, of: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            macs: of(self.macs, other.macs),
            parameters: of(self.parameters, other.parameters),
            time: of(self.time, other.time),
            energy: of(self.energy, other.energy),
        }
    }

    fn sum(self) -> f64 {
        self.macs + self.parameters + self.time + self.energy
    }
}

/// The costs of one graph along the traces of its groups.
pub(crate) struct Widths {
    terms: Vec<Term>,
    /// The terms that each group changes.
    touched: Vec<Vec<usize>>,
    /// Costs with nothing gone.
    dense: Prices,
}

/// One tensor: its elements are the product of what its axes keep.
struct Term {
    axes: Vec<Axis>,
    /// What an element costs.
    each: Prices,
}

/// For each group, the indices kept after 0, 1, … of its channels have gone.
type Kept = Vec<(usize, Vec<usize>)>;

#[derive(Default)]
struct Axis {
    fixed: usize,
    /// Groups whose channels lie along the axis.
    kept: Kept,
}

impl Axis {
    /// An axis of `length` along which channels lie as `kept` says.
    fn new(length: usize, kept: Kept) -> Self {
        let moving: usize = kept.iter().map(|(_, kept)| kept[0]).sum();
        Self { fixed: length.saturating_sub(moving), kept }
    }

    fn length(&self, gone: impl Fn(usize) -> usize) -> f64 {
        (self.fixed + self.kept.iter().map(|(group, kept)| kept[gone(*group)]).sum::<usize>()) as f64
    }
}

impl Widths {
    /// Those of `graph`; without `timing` nothing takes time or energy.
    ///
    /// # Errors
    /// Where the graph's shapes are not known.
    pub(crate) fn new(
        graph: &Graph,
        groups: &Groups,
        traces: &[Trace],
        timing: Option<&Timing>,
    ) -> Result<Self, PruneError> {
        let analysis = cost::analyse(graph).map_err(unrunnable)?;
        let mut terms = weights(graph, &analysis, groups, traces, timing);
        if let Some(timing) = timing {
            terms.extend(activations(graph, groups, traces, timing)?);
        }
        let mut touched = vec![Vec::new(); groups.groups.len()];
        let mut dense = Prices::NONE;
        for (index, term) in terms.iter().enumerate() {
            let mut of: Vec<usize> =
                term.axes.iter().flat_map(|axis| axis.kept.iter().map(|(group, _)| *group)).collect();
            of.sort_unstable();
            of.dedup();
            of.into_iter().for_each(|group| touched[group].push(index));
            let elements = term.elements(|_| 0);
            dense = dense.zip(term.each, |all, each| all + each * elements);
        }
        Ok(Self { terms, touched, dense })
    }

    /// The price of all that `group` changes, with as many gone as `gone` says.
    pub(crate) fn saving_base(&self, group: usize, gone: &[usize], prices: &Prices) -> f64 {
        self.with(group, gone[group], gone, prices)
    }

    /// The same with `end` of `group`'s channels gone.
    pub(crate) fn with(&self, group: usize, end: usize, gone: &[usize], prices: &Prices) -> f64 {
        let at = |other: usize| if other == group { end } else { gone[other] };
        let share = prices.zip(self.dense, |price, dense| if dense > 0.0 { price / dense } else { 0.0 });
        let price = |term: &Term| term.elements(at) * share.zip(term.each, |share, each| share * each).sum();
        self.touched[group].iter().map(|&term| price(&self.terms[term])).sum()
    }
}

impl Term {
    fn elements(&self, gone: impl Fn(usize) -> usize + Copy) -> f64 {
        self.axes.iter().map(|axis| axis.length(gone)).product()
    }
}

/// A term for each tensor of weights.
fn weights(
    graph: &Graph,
    analysis: &Analysis,
    groups: &Groups,
    traces: &[Trace],
    timing: Option<&Timing>,
) -> Vec<Term> {
    let mut axes: BTreeMap<(&str, usize), Kept> = BTreeMap::new();
    for (index, group) in groups.groups.iter().enumerate() {
        for site in &group.sites {
            let entry = axes.entry((&site.tensor, site.axis)).or_default();
            if entry.iter().any(|(group, _)| *group == index) {
                continue; // a tensor read twice
            }
            let channels = site.channels.iter().flatten().copied();
            entry.push((index, left(channels, &traces[index])));
        }
    }
    let costs = of_weights(graph, analysis, timing);
    let floats = graph.initializers.iter().filter(|(_, tensor)| tensor.as_f32().is_some());
    floats
        .map(|(name, tensor)| {
            let lengths = tensor.shape().iter().enumerate();
            let axes = lengths.map(|(axis, &length)| {
                Axis::new(length, axes.remove(&(name.as_str(), axis)).unwrap_or_default())
            });
            let uses = costs.get(name.as_str()).copied().unwrap_or_default();
            Term { axes: axes.collect(), each: uses.and(Prices::PARAMETERS) }
        })
        .collect()
}

/// What an element of each layer's weights costs, but for being one.
fn of_weights<'g>(
    graph: &'g Graph,
    analysis: &Analysis,
    timing: Option<&Timing>,
) -> BTreeMap<&'g str, Prices> {
    let mut costs: BTreeMap<&str, Prices> = BTreeMap::new();
    for layer in &analysis.layers {
        let of_shape = |tensor: &Tensor| tensor.shape() == layer.weights;
        let node = graph.nodes.iter().find(|node| node.label() == layer.name);
        let weights = node.and_then(|node| {
            node.inputs.iter().find(|name| graph.initializers.get(*name).is_some_and(of_shape))
        });
        let Some(name) = weights else { continue };
        let elements: usize = layer.weights.iter().product();
        let macs = layer.dense_macs.get() as f64 / elements.max(1) as f64;
        let time = timing.map_or(0.0, |timing| macs * timing.us_per_mac(layer));
        let energy = match timing.and_then(|timing| timing.energy) {
            Some(Energy::Watts(watts)) => watts * time,
            Some(Energy::Work { per_mac, .. }) => per_mac * macs,
            None => 0.0,
        };
        let cost = costs.entry(name).or_default();
        *cost = cost.and(Prices { macs, parameters: 0.0, time, energy });
    }
    costs
}

/// A term for each activation along which channels lie: what it takes to move it.
fn activations(
    graph: &Graph,
    groups: &Groups,
    traces: &[Trace],
    timing: &Timing,
) -> Result<Vec<Term>, PruneError> {
    let shapes = shape::infer(graph, 1).map_err(unrunnable)?;
    let mut terms = Vec::new();
    for (name, times) in traffic(graph) {
        let Some((shape, (axis, members))) = shapes.get(name).zip(groups.along(name)) else { continue };
        let mut of: Vec<usize> = members.iter().flatten().map(|&(group, _)| group).collect();
        of.sort_unstable();
        of.dedup();
        let kept = of.into_iter().map(|group| {
            let own = members.iter().flatten().filter(|member| member.0 == group);
            (group, left(own.map(|member| member.1), &traces[group]))
        });
        let channels = Axis::new(members.len(), kept.collect());
        let around = shape.iter().enumerate().filter(|(at, _)| *at != axis).map(|(_, &length)| length);
        let bytes = (4 * times) as f64;
        let time = bytes * timing.us_per_byte();
        let energy = match timing.energy {
            Some(Energy::Watts(watts)) => watts * time,
            Some(Energy::Work { per_byte, .. }) => per_byte * bytes,
            None => 0.0,
        };
        let axes = vec![Axis::new(around.product(), Kept::new()), channels];
        terms.push(Term { axes, each: Prices { time, energy, ..Prices::NONE } });
    }
    Ok(terms)
}

/// Of indices that belong to `channels` of a group, how many are left after 0, 1, … of these have gone.
fn left(channels: impl Iterator<Item = usize>, trace: &Trace) -> Vec<usize> {
    let mut count = vec![0; trace.order.len()];
    channels.for_each(|channel| count[channel] += 1);
    let all = count.iter().sum();
    let mut kept = vec![all];
    kept.extend(trace.order.iter().scan(all, |left, &channel| {
        *left -= count[channel];
        Some(*left)
    }));
    kept
}
