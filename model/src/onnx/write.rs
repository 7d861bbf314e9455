//! A graph into ONNX bytes that any runtime loads.

use prost::Message;

use super::messages::{self, attribute_type};
use crate::{Attribute, Dim, Graph, Node, Tensor, TensorData, ValueInfo};

/// Writes a model; [`read`](super::read) gives the same graph back.
pub fn write(graph: &Graph) -> Vec<u8> {
    let mut message = graph_message(graph);
    message.initializer =
        graph.initializers.iter().map(|(name, tensor)| tensor_message(name, tensor)).collect();
    if graph.ir_version < 4 {
        // Until then every initializer had to be listed as an input as well.
        message.input.extend(graph.initializers.iter().map(|(name, tensor)| input_message(name, tensor)));
    }
    model_message(graph, message).encode_to_vec()
}

/// The model around a graph's message.
pub(crate) fn model_message(graph: &Graph, message: messages::Graph) -> messages::Model {
    let opset = |set: &crate::OpSet| messages::OperatorSetId {
        domain: Some(set.domain.clone()),
        version: Some(set.version),
    };
    messages::Model {
        ir_version: Some(graph.ir_version),
        producer_name: Some("secateur".to_owned()),
        graph: Some(message),
        opset_import: graph.opsets.iter().map(opset).collect(),
        functions: Vec::new(),
    }
}

/// The graph without its initializers.
pub(crate) fn graph_message(graph: &Graph) -> messages::Graph {
    messages::Graph {
        node: graph.nodes.iter().map(node_message).collect(),
        name: Some(graph.name.clone()),
        initializer: Vec::new(),
        input: graph.inputs.iter().map(value_message).collect(),
        output: graph.outputs.iter().map(value_message).collect(),
        value_info: Vec::new(),
        sparse_initializer: Vec::new(),
    }
}

fn node_message(node: &Node) -> messages::Node {
    messages::Node {
        input: node.inputs.clone(),
        output: node.outputs.clone(),
        name: some_text(&node.name),
        op_type: Some(node.op.clone()),
        attribute: node.attributes.iter().map(|(name, value)| attribute_message(name, value)).collect(),
        domain: some_text(&node.domain),
    }
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn attribute_message(name: &str, value: &Attribute) -> messages::Attribute {
    let named = messages::Attribute { name: Some(name.to_owned()), ..Default::default() };
    let typed = |kind| messages::Attribute { r#type: Some(kind), ..named.clone() };
    match value {
        Attribute::Float(f) => messages::Attribute { f: Some(*f), ..typed(attribute_type::FLOAT) },
        Attribute::Int(i) => messages::Attribute { i: Some(*i), ..typed(attribute_type::INT) },
        Attribute::Bytes(s) => messages::Attribute { s: Some(s.clone()), ..typed(attribute_type::STRING) },
        Attribute::Tensor(tensor) => {
            messages::Attribute { t: Some(tensor_message("", tensor)), ..typed(attribute_type::TENSOR) }
        }
        Attribute::Floats(floats) => {
            messages::Attribute { floats: floats.clone(), ..typed(attribute_type::FLOATS) }
        }
        Attribute::Ints(ints) => messages::Attribute { ints: ints.clone(), ..typed(attribute_type::INTS) },
        Attribute::Strings(all) => {
            messages::Attribute { strings: all.clone(), ..typed(attribute_type::STRINGS) }
        }
        // Written by this program from a message that it read, so it decodes.
        Attribute::Opaque(bytes) => messages::Attribute::decode(bytes.as_slice()).unwrap_or(named),
    }
}

fn value_message(value: &ValueInfo) -> messages::ValueInfo {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(length) => messages::Dimension { dim_value: Some(*length as i64), dim_param: None },
        Dim::Symbol(symbol) => messages::Dimension { dim_value: None, dim_param: some_text(symbol) },
    };
    let shape = value.shape.as_ref().map(|dims| messages::Shape { dim: dims.iter().map(dim).collect() });
    let tensor_type = Some(messages::TensorType { elem_type: Some(value.dtype), shape });
    messages::ValueInfo { name: Some(value.name.clone()), r#type: Some(messages::Type { tensor_type }) }
}

fn input_message(name: &str, tensor: &Tensor) -> messages::ValueInfo {
    let shape = tensor.shape().iter().map(|&dim| Dim::Fixed(dim)).collect();
    value_message(&ValueInfo { name: name.to_owned(), dtype: tensor.dtype().0, shape: Some(shape) })
}

fn tensor_message(name: &str, tensor: &Tensor) -> messages::Tensor {
    messages::Tensor {
        dims: tensor.shape().iter().map(|&dim| dim as i64).collect(),
        data_type: Some(tensor.dtype().0),
        name: some_text(name),
        raw_data: Some(tensor.to_le_bytes()),
        ..Default::default()
    }
}

impl Tensor {
    /// The elements as little-endian bytes.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match self.data() {
            TensorData::F32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            TensorData::I64(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            TensorData::Other(_, bytes) => bytes.as_ref().clone(),
        }
    }
}
