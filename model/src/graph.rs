//! The graph: ONNX's, with constants out of the way and nodes in topological order.

use std::collections::{BTreeMap, BTreeSet};

use secateur_common::caps;

use crate::Tensor;

/// A trained model. What it was read from is kept where it matters to others: the names of inputs, outputs and
/// weights, operator domains and versions, attributes it does not understand.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Graph {
    /// The graph's name.
    pub name: String,
    /// ONNX IR version.
    pub ir_version: i64,
    /// Operator sets used.
    pub opsets: Vec<OpSet>,
    /// Run-time inputs (initializers are not among them).
    pub inputs: Vec<ValueInfo>,
    /// Outputs.
    pub outputs: Vec<ValueInfo>,
    /// Nodes in topological order. `Constant` nodes have become initializers.
    pub nodes: Vec<Node>,
    /// Constants by name.
    pub initializers: BTreeMap<String, Tensor>,
    /// What the file says of types and shapes of inner values: asked only where they cannot be inferred, not written.
    pub declared: BTreeMap<String, ValueInfo>,
}

/// An operator set and its version; the empty domain is ONNX's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpSet {
    /// The domain.
    pub domain: String,
    /// The version.
    pub version: i64,
}

/// One operator of the graph.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Node {
    /// Its name, which may be empty.
    pub name: String,
    /// The operator, such as `Conv`.
    pub op: String,
    /// The operator's domain; empty for ONNX's own.
    pub domain: String,
    /// Names of the input values; an empty name is an optional input left out.
    pub inputs: Vec<String>,
    /// Names of the output values; an empty name is an optional output left out.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
}

/// An attribute's value.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum Attribute {
    Float(f32),
    Int(i64),
    Bytes(Vec<u8>),
    Tensor(Tensor),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Vec<u8>>),
    /// Anything else (subgraphs, sparse tensors, types), as its encoded `AttributeProto`.
    Opaque(Vec<u8>),
}

/// A graph input's or output's name, type and shape.
#[derive(Clone, PartialEq, Debug)]
pub struct ValueInfo {
    /// The value's name.
    pub name: String,
    /// Element type by ONNX code.
    pub dtype: i32,
    /// The axes; `None` where not even their number is known.
    pub shape: Option<Vec<Dim>>,
}

/// The length of an axis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dim {
    /// Known.
    Fixed(usize),
    /// Known at run time only; the same symbol is the same length. The empty symbol is like no other.
    Symbol(String),
}

/// Why nodes and values make no graph.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum GraphError {
    #[error("value `{0}` is produced more than once")]
    ProducedTwice(String),
    #[error("node `{node}` reads `{value}`, which nothing produces before it")]
    Undefined { node: String, value: String },
    #[error("graph output `{0}` is produced by nothing")]
    MissingOutput(String),
    #[error("the graph has more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
}

impl Node {
    /// The name, or the operator and the first output where it has none: for people.
    pub fn label(&self) -> String {
        match (self.name.is_empty(), self.outputs.first()) {
            (false, _) => self.name.clone(),
            (true, Some(output)) => format!("{}→{output}", self.op),
            (true, None) => self.op.clone(),
        }
    }

    /// Whether this is ONNX's own operator `op`.
    pub fn is(&self, op: &str) -> bool {
        self.op == op && (self.domain.is_empty() || self.domain == "ai.onnx")
    }

    /// The input at `index`, unless it is left out.
    pub fn input(&self, index: usize) -> Option<&str> {
        self.inputs.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// The integer attribute `name`, or `default`.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attributes.get(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    /// The float attribute `name`, or `default`.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.attributes.get(name) {
            Some(Attribute::Float(value)) => *value,
            _ => default,
        }
    }

    /// The integer-list attribute `name`.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// The text attribute `name`.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name) {
            Some(Attribute::Bytes(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

impl Graph {
    /// The version of ONNX's own operator set; 0 where the graph names none.
    pub fn opset(&self) -> i64 {
        let own = self.opsets.iter().find(|set| set.domain.is_empty() || set.domain == "ai.onnx");
        own.map_or(0, |set| set.version)
    }

    /// For each value, the index of the node that produces it.
    pub fn producers(&self) -> BTreeMap<&str, usize> {
        let mut map = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            map.extend(
                node.outputs.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), index)),
            );
        }
        map
    }

    /// For each value, the indices of the nodes that read it, in order, each once.
    pub fn consumers(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut map: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for name in node.inputs.iter().filter(|name| !name.is_empty()) {
                let readers = map.entry(name.as_str()).or_default();
                if readers.last() != Some(&index) {
                    readers.push(index);
                }
            }
        }
        map
    }

    /// Puts the nodes in topological order and checks that every value is produced once and before it is read.
    ///
    /// # Errors
    /// Names the value or node that breaks the rule.
    pub fn normalise(&mut self) -> Result<(), GraphError> {
        if self.nodes.len() > caps::GRAPH_NODES {
            return Err(GraphError::TooMany { what: "nodes", limit: caps::GRAPH_NODES });
        }
        if self.initializers.len() > caps::GRAPH_TENSORS {
            return Err(GraphError::TooMany { what: "initializers", limit: caps::GRAPH_TENSORS });
        }
        self.nodes.retain(|node| !node.outputs.is_empty()); // what makes nothing does nothing
        let order = self.topological_order()?;
        let mut nodes: Vec<_> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        self.nodes = order.into_iter().filter_map(|index| nodes[index].take()).collect();
        Ok(())
    }

    fn topological_order(&self) -> Result<Vec<usize>, GraphError> {
        let mut known: BTreeSet<&str> = self.initializers.keys().map(String::as_str).collect();
        for input in &self.inputs {
            if !known.insert(&input.name) {
                return Err(GraphError::ProducedTwice(input.name.clone()));
            }
        }
        let mut produced = known.clone();
        for name in self.nodes.iter().flat_map(|node| &node.outputs).filter(|name| !name.is_empty()) {
            if !produced.insert(name) {
                return Err(GraphError::ProducedTwice(name.clone()));
            }
        }
        let consumers = self.consumers();
        let missing_of = |node: &Node| {
            let named = node.inputs.iter().map(String::as_str).filter(|name| !name.is_empty());
            named.filter(|name| !known.contains(name)).collect::<BTreeSet<_>>().len()
        };
        let mut missing: Vec<_> = self.nodes.iter().map(missing_of).collect();
        // Kahn's algorithm; of the ready nodes the first in file order goes first, so a sorted file stays as it is.
        let mut ready: BTreeSet<usize> = (0..self.nodes.len()).filter(|&index| missing[index] == 0).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(index) = ready.pop_first() {
            order.push(index);
            for output in self.nodes[index].outputs.iter().filter(|name| !name.is_empty()) {
                for &reader in consumers.get(output.as_str()).into_iter().flatten() {
                    missing[reader] -= 1;
                    if missing[reader] == 0 {
                        ready.insert(reader);
                    }
                }
            }
        }
        if let Some(stuck) = (0..self.nodes.len()).find(|&index| missing[index] > 0) {
            let node = &self.nodes[stuck];
            let undefined =
                node.inputs.iter().find(|name| !name.is_empty() && !produced.contains(name.as_str()));
            let value = undefined.or(node.inputs.first()).cloned().unwrap_or_default();
            return Err(GraphError::Undefined { node: node.label(), value });
        }
        match self.outputs.iter().find(|output| !produced.contains(output.name.as_str())) {
            Some(output) => Err(GraphError::MissingOutput(output.name.clone())),
            None => Ok(order),
        }
    }
}
