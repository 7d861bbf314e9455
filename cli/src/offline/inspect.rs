//! `secateur inspect`: what a model is made of, what can be pruned, what runs it.

use std::path::PathBuf;

use secateur_common::Cost;
use secateur_engine::Session;
use secateur_model::cost::{self, Analysis, LayerCost};
use secateur_model::groups::{self, Groups};
use secateur_model::{Graph, shape};
use serde_json::{Value, json};

use super::read_model;
use crate::failure::{OrFail, Outcome, chain};
use crate::output::{Align, Output, percent, table};

/// `secateur inspect`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct InspectArgs {
    /// The model, ONNX
    model: PathBuf,
}

/// Runs it.
///
/// # Errors
/// Where the model cannot be read or its shapes are not known.
pub(crate) fn main(args: &InspectArgs, output: Output) -> Outcome {
    let graph = read_model(&args.model)?;
    let doing = format!("cannot inspect {}", args.model.display());
    let advice = "give a model whose inputs have known shapes";
    // Groups are found on the graph as the pruner prepares it.
    let mut prepared = graph.clone();
    groups::prepare(&mut prepared);
    let shapes = shape::infer(&prepared, 1).or_input(&doing, advice)?;
    let analysis = cost::analyse(&graph).or_input(&doing, advice)?;
    let groups = groups::find(&prepared, &shapes);
    let backend = match Session::load(&graph) {
        Ok(session) => match session.fallback_reason() {
            Some(reason) => format!("{}, because the plan does not cover {reason}", session.backend()),
            None => session.backend().to_string(),
        },
        Err(error) => format!("none: {}", chain(&error)),
    };
    let cost = analysis.cost(secateur_update::stored_bytes(&graph));
    output.print(&document(&graph, &cost, &analysis, &groups, &backend), || {
        text(&graph, &cost, &analysis, &groups, &backend)
    })
}

fn document(graph: &Graph, cost: &Cost, analysis: &Analysis, groups: &Groups, backend: &str) -> Value {
    let free = shape::free_axes(graph);
    let layer = |layer: &LayerCost| {
        json!({
            "name": layer.name,
            "op": layer.op,
            "input": layer.input,
            "output": layer.output,
            "weights": layer.weights,
            "macs": layer.macs,
            "dense_macs": layer.dense_macs,
            "parameters": layer.parameters,
            "nonzero": layer.nonzero,
        })
    };
    let group = |group: &groups::Group| {
        let tensors: Vec<_> = group.sites.iter().map(|site| &site.tensor).collect();
        json!({ "name": group.name, "channels": group.channels, "tensors": tensors })
    };
    let frozen = |frozen: &groups::Frozen| json!({ "tensor": frozen.tensor, "channels": frozen.channels, "reason": frozen.reason });
    json!({
        "macs": cost.macs,
        "dense_macs": cost.dense_macs,
        "parameters": cost.parameters,
        "nonzero": cost.nonzero,
        "model_bytes": cost.model_bytes,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "layers": analysis.layers.iter().map(layer).collect::<Vec<_>>(),
        "groups": groups.groups.iter().map(group).collect::<Vec<_>>(),
        "frozen": groups.frozen.iter().map(frozen).collect::<Vec<_>>(),
        "unknown": analysis.unknown,
        "free_axes": free,
        "backend": backend,
    })
}

fn text(graph: &Graph, cost: &Cost, analysis: &Analysis, groups: &Groups, backend: &str) -> String {
    let mut parts = vec![layer_table(analysis)];
    parts.push(format!(
        "total: {} MACs, {} parameters, {} nonzero; {} as stored, {} peak memory\nopset {}, {} nodes; runs on {backend}",
        cost.macs,
        cost.parameters,
        cost.nonzero,
        cost.model_bytes,
        cost.peak_memory_bytes,
        graph.opset(),
        graph.nodes.len(),
    ));
    let free = shape::free_axes(graph);
    if !free.is_empty() {
        parts.push(format!("free axes, taken as {} long: {}", shape::FREE_LENGTH, free.join(", ")));
    }
    parts.push(group_table(groups));
    if !groups.frozen.is_empty() {
        let columns = [("frozen", Align::Left), ("channels", Align::Right), ("why", Align::Left)];
        let row = |frozen: &groups::Frozen| {
            vec![frozen.tensor.clone(), frozen.channels.to_string(), frozen.reason.clone()]
        };
        parts.push(table(&columns, &groups.frozen.iter().map(row).collect::<Vec<_>>()));
    }
    if !analysis.unknown.is_empty() {
        parts.push(format!("not counted, because its shape is unknown: {}", analysis.unknown.join(", ")));
    }
    parts.join("\n\n")
}

fn layer_table(analysis: &Analysis) -> String {
    let columns = [
        ("layer", Align::Left),
        ("operator", Align::Left),
        ("input", Align::Left),
        ("output", Align::Left),
        ("weights", Align::Left),
        ("MACs", Align::Right),
        ("share", Align::Right),
        ("parameters", Align::Right),
        ("nonzero", Align::Right),
    ];
    let shape = |shape: &[usize]| {
        let lengths: Vec<_> = shape.iter().map(usize::to_string).collect();
        if lengths.is_empty() { "?".to_owned() } else { lengths.join("×") }
    };
    let total = analysis.macs().get() as f64;
    let row = |layer: &LayerCost| {
        vec![
            layer.name.clone(),
            layer.op.clone(),
            shape(&layer.input),
            shape(&layer.output),
            shape(&layer.weights),
            layer.macs.to_string(),
            percent(layer.macs.get() as f64, total),
            layer.parameters.to_string(),
            layer.nonzero.to_string(),
        ]
    };
    table(&columns, &analysis.layers.iter().map(row).collect::<Vec<_>>())
}

fn group_table(groups: &Groups) -> String {
    if groups.groups.is_empty() {
        return "no channel group can be pruned".into();
    }
    let columns = [("channel group", Align::Left), ("channels", Align::Right), ("tensors cut", Align::Left)];
    let row = |group: &groups::Group| {
        let mut tensors: Vec<_> = group.sites.iter().map(|site| site.tensor.as_str()).collect();
        tensors.dedup();
        vec![group.name.clone(), group.channels.to_string(), tensors.join(", ")]
    };
    table(&columns, &groups.groups.iter().map(row).collect::<Vec<_>>())
}
