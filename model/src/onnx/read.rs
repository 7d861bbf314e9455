//! ONNX bytes into a graph. The bytes are hostile until read to the end.

use std::collections::BTreeMap;

use prost::Message;
use secateur_common::caps;

use super::fields;
use super::messages::{self, attribute_type};
use crate::tensor::element_count;
use crate::{
    Attribute, DType, Dim, Graph, GraphError, Node, OpSet, Tensor, TensorData, TensorError, ValueInfo,
};

/// Why bytes are not a model that can be worked with.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OnnxError {
    #[error("the file has {size} bytes, more than the limit of {}", caps::MODEL_BYTES)]
    TooLarge { size: usize },
    #[error("the file has more nodes, attributes, names or dimensions than any model needs")]
    TooManyFields,
    #[error("not an ONNX file, or a damaged one: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("not an ONNX file: it holds no graph")]
    NoGraph,
    #[error("not an ONNX file, or a damaged one: it names no operator set")]
    NoOperatorSet,
    #[error("tensor `{name}`: {source}")]
    Tensor { name: String, source: TensorError },
    #[error("tensor `{name}`: {problem}")]
    TensorForm { name: String, problem: &'static str },
    #[error("a name of {length} bytes is over the limit of {}", caps::GRAPH_NAME_BYTES)]
    LongName { length: usize },
    #[error("input or output `{name}`: {problem}")]
    ValueForm { name: String, problem: &'static str },
    #[error("{0} are not supported: export the model without them")]
    Unsupported(&'static str),
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Reads a model. `Constant` nodes become initializers, and the nodes come out in topological order.
///
/// # Errors
/// Where the bytes are no ONNX model, are damaged, break a cap, keep weights in other files, or use sparse
/// initializers or model-local functions.
pub fn read(bytes: &[u8]) -> Result<Graph, OnnxError> {
    read_with(bytes, BTreeMap::new())
}

/// Reads a model whose initializers, or some of them, come beside it.
pub(crate) fn read_with(bytes: &[u8], tensors: BTreeMap<String, Tensor>) -> Result<Graph, OnnxError> {
    if bytes.len() > caps::MODEL_BYTES {
        return Err(OnnxError::TooLarge { size: bytes.len() });
    }
    if !fields::are_few(bytes) {
        return Err(OnnxError::TooManyFields);
    }
    let model = messages::Model::decode(bytes)?;
    if !model.functions.is_empty() {
        return Err(OnnxError::Unsupported("model-local functions"));
    }
    if model.opset_import.is_empty() {
        return Err(OnnxError::NoOperatorSet);
    }
    let opsets = model.opset_import.into_iter().map(|set| OpSet {
        domain: set.domain.unwrap_or_default(),
        version: set.version.unwrap_or_default(),
    });
    let mut graph = read_graph(model.graph.ok_or(OnnxError::NoGraph)?, tensors)?;
    graph.opsets = opsets.collect();
    graph.ir_version = model.ir_version.unwrap_or_default();
    graph.normalise()?;
    Ok(graph)
}

fn read_graph(message: messages::Graph, tensors: BTreeMap<String, Tensor>) -> Result<Graph, OnnxError> {
    if !message.sparse_initializer.is_empty() {
        return Err(OnnxError::Unsupported("sparse initializers"));
    }
    let mut graph =
        Graph { name: message.name.unwrap_or_default(), initializers: tensors, ..Graph::default() };
    for tensor in message.initializer {
        let name = checked_name(tensor.name.clone().unwrap_or_default())?;
        let tensor = read_tensor(&name, tensor)?;
        if graph.initializers.insert(name.clone(), tensor).is_some() {
            return Err(GraphError::ProducedTwice(name).into());
        }
    }
    for node in message.node {
        match constant_of(&node)? {
            Some((name, tensor)) => {
                if graph.initializers.insert(name.clone(), tensor).is_some() {
                    return Err(GraphError::ProducedTwice(name).into());
                }
            }
            None => graph.nodes.push(read_node(node)?),
        }
    }
    let inputs = message.input.into_iter().map(read_value).collect::<Result<Vec<_>, _>>()?;
    // Until IR version 4 every initializer had to be listed as an input as well.
    graph.inputs = inputs.into_iter().filter(|input| !graph.initializers.contains_key(&input.name)).collect();
    graph.outputs = message.output.into_iter().map(read_value).collect::<Result<_, _>>()?;
    if message.value_info.len() > caps::GRAPH_NODES {
        return Err(GraphError::TooMany { what: "declared shapes", limit: caps::GRAPH_NODES }.into());
    }
    // Those that are no tensors' (sequences, optionals) are of no use here.
    let declared = message.value_info.into_iter().filter_map(|value| read_value(value).ok());
    let declared = declared.filter(|value| !graph.initializers.contains_key(&value.name));
    graph.declared = declared.map(|value| (value.name.clone(), value)).collect();
    Ok(graph)
}

/// The name and tensor of a `Constant` node, if this is one.
fn constant_of(node: &messages::Node) -> Result<Option<(String, Tensor)>, OnnxError> {
    let own = matches!(node.domain.as_deref(), None | Some("" | "ai.onnx"));
    if !own || node.op_type.as_deref() != Some("Constant") || node.output.len() != 1 {
        return Ok(None);
    }
    let name = checked_name(node.output[0].clone())?;
    let Some(attribute) = node.attribute.first() else {
        return Err(OnnxError::TensorForm { name, problem: "a Constant node without a value" });
    };
    let fault = |source| OnnxError::Tensor { name: name.clone(), source };
    let tensor = match attribute.name.as_deref() {
        Some("value") => match &attribute.t {
            Some(tensor) => read_tensor(&name, tensor.clone())?,
            None => return Err(OnnxError::TensorForm { name, problem: "a Constant node without a value" }),
        },
        Some("value_float") => Tensor::f32([], vec![attribute.f.unwrap_or_default()]).map_err(fault)?,
        Some("value_int") => Tensor::i64([], vec![attribute.i.unwrap_or_default()]).map_err(fault)?,
        Some("value_floats") => {
            Tensor::f32([attribute.floats.len()], attribute.floats.clone()).map_err(fault)?
        }
        Some("value_ints") => Tensor::i64([attribute.ints.len()], attribute.ints.clone()).map_err(fault)?,
        _ => return Ok(None), // strings and sparse values stay a node; what reads them is not understood
    };
    Ok(Some((name, tensor)))
}

fn checked_name(name: String) -> Result<String, OnnxError> {
    if name.len() > caps::GRAPH_NAME_BYTES {
        return Err(OnnxError::LongName { length: name.len() });
    }
    Ok(name)
}

fn read_node(message: messages::Node) -> Result<Node, OnnxError> {
    let names = |names: Vec<String>| names.into_iter().map(checked_name).collect::<Result<Vec<_>, _>>();
    let mut attributes = BTreeMap::new();
    for attribute in message.attribute {
        let name = checked_name(attribute.name.clone().unwrap_or_default())?;
        attributes.insert(name, read_attribute(attribute)?);
    }
    Ok(Node {
        name: checked_name(message.name.unwrap_or_default())?,
        op: checked_name(message.op_type.unwrap_or_default())?,
        domain: checked_name(message.domain.unwrap_or_default())?,
        inputs: names(message.input)?,
        outputs: names(message.output)?,
        attributes,
    })
}

fn read_attribute(message: messages::Attribute) -> Result<Attribute, OnnxError> {
    // Files before IR version 2 left the type out; it follows from the field that is set.
    let kind = message.r#type.unwrap_or({
        match () {
            () if message.f.is_some() => attribute_type::FLOAT,
            () if message.i.is_some() => attribute_type::INT,
            () if message.s.is_some() => attribute_type::STRING,
            () if message.t.is_some() => attribute_type::TENSOR,
            () if !message.floats.is_empty() => attribute_type::FLOATS,
            () if !message.ints.is_empty() => attribute_type::INTS,
            () if !message.strings.is_empty() => attribute_type::STRINGS,
            () => 0,
        }
    });
    Ok(match kind {
        attribute_type::FLOAT => Attribute::Float(message.f.unwrap_or_default()),
        attribute_type::INT => Attribute::Int(message.i.unwrap_or_default()),
        attribute_type::STRING => Attribute::Bytes(message.s.unwrap_or_default()),
        attribute_type::TENSOR => {
            let name = message.name.unwrap_or_default();
            Attribute::Tensor(read_tensor(&name, message.t.unwrap_or_default())?)
        }
        attribute_type::FLOATS => Attribute::Floats(message.floats),
        attribute_type::INTS => Attribute::Ints(message.ints),
        attribute_type::STRINGS => Attribute::Strings(message.strings),
        _ => Attribute::Opaque(message.encode_to_vec()),
    })
}

fn read_value(message: messages::ValueInfo) -> Result<ValueInfo, OnnxError> {
    let name = checked_name(message.name.unwrap_or_default())?;
    let Some(tensor) = message.r#type.and_then(|kind| kind.tensor_type) else {
        return Err(OnnxError::ValueForm { name, problem: "is not a tensor" });
    };
    let dim = |dim: messages::Dimension| match (dim.dim_value, dim.dim_param) {
        // Exporters write 0 or -1 where they mean "free".
        (Some(value), _) if value > 0 => usize::try_from(value).map(Dim::Fixed).ok(),
        (_, symbol) => Some(Dim::Symbol(symbol.unwrap_or_default())),
    };
    let shape = match tensor.shape {
        None => None,
        Some(shape) if shape.dim.len() > caps::TENSOR_RANK => {
            return Err(OnnxError::ValueForm { name, problem: "has too many dimensions" });
        }
        Some(shape) => shape.dim.into_iter().map(dim).collect(),
    };
    Ok(ValueInfo { name, dtype: tensor.elem_type.unwrap_or_default(), shape })
}

fn read_tensor(name: &str, message: messages::Tensor) -> Result<Tensor, OnnxError> {
    let form = |problem| OnnxError::TensorForm { name: name.to_owned(), problem };
    let fault = |source| OnnxError::Tensor { name: name.to_owned(), source };
    if message.data_location == Some(1) {
        return Err(form("its data is in another file; save the model as one file"));
    }
    if message.dims.len() > caps::TENSOR_RANK {
        return Err(form("has too many dimensions"));
    }
    let shape = message.dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| form("has a negative dimension"))?;
    let count = element_count(&shape).map_err(fault)?;
    let dtype = DType(message.data_type.unwrap_or_default());
    let size = dtype.size().ok_or_else(|| fault(TensorError::UnsupportedType(dtype.0)))?;
    let bytes = match message.raw_data {
        Some(raw) if !raw.is_empty() || count == 0 => raw,
        _ => typed_bytes(dtype, &message),
    };
    if bytes.len() != count * size {
        return Err(fault(TensorError::WrongLength { shape, found: bytes.len() / size }));
    }
    let data = match dtype {
        DType::F32 => TensorData::F32(
            bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect::<Vec<_>>()
                .into(),
        ),
        DType::I64 => TensorData::I64(
            bytes
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                .collect::<Vec<_>>()
                .into(),
        ),
        other => TensorData::Other(other, bytes.into()),
    };
    Tensor::new(shape, data).map_err(fault)
}

/// Little-endian elements from the typed fields: which field holds a type is set by onnx.proto3.
fn typed_bytes(dtype: DType, message: &messages::Tensor) -> Vec<u8> {
    let (floats, ints, ulongs) = (&message.float_data, &message.int32_data, &message.uint64_data);
    match dtype.0 {
        1 | 14 => floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
        2 | 3 | 9 => ints.iter().map(|&x| x as u8).collect(),
        4 | 5 | 10 | 16 => ints.iter().flat_map(|&x| (x as u16).to_le_bytes()).collect(),
        6 => ints.iter().flat_map(|x| x.to_le_bytes()).collect(),
        7 => message.int64_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        11 => message.double_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        12 => ulongs.iter().flat_map(|&x| (x as u32).to_le_bytes()).collect(),
        13 => ulongs.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relu() -> Graph {
        let value = |name: &str| ValueInfo {
            name: name.into(),
            dtype: 1,
            shape: Some(vec![Dim::Symbol("N".into()), Dim::Fixed(3)]),
        };
        Graph {
            name: "g".into(),
            ir_version: 8,
            opsets: vec![OpSet { domain: String::new(), version: 17 }],
            inputs: vec![value("x")],
            outputs: vec![value("y")],
            nodes: vec![Node {
                op: "Add".into(),
                inputs: vec!["x".into(), "b".into()],
                outputs: vec!["y".into()],
                ..Node::default()
            }],
            initializers: BTreeMap::from([("b".to_owned(), Tensor::f32([3], vec![1.0, 2.0, 3.0]).unwrap())]),
            declared: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let graph = relu();
        let bytes = super::super::write(&graph);
        assert_eq!(read(&bytes).unwrap(), graph);
        let again =
            crate::canonical::assemble(&crate::canonical::skeleton(&graph), graph.initializers.clone());
        assert_eq!(again.unwrap(), graph);
    }

    #[test]
    fn old_files_list_initializers_as_inputs() {
        let inputs_at = |ir_version| {
            let graph = Graph { ir_version, ..relu() };
            let bytes = super::super::write(&graph);
            assert_eq!(read(&bytes).unwrap(), graph);
            let inputs = messages::Model::decode(bytes.as_slice()).unwrap().graph.unwrap().input;
            inputs.into_iter().filter_map(|input| input.name).collect::<Vec<_>>()
        };
        assert_eq!(inputs_at(3), ["x", "b"]);
        assert_eq!(inputs_at(4), ["x"]);
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let bytes = super::super::write(&relu());
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut at {end}");
        }
        let cyclic = Graph {
            nodes: vec![Node {
                op: "Relu".into(),
                inputs: vec!["y".into()],
                outputs: vec!["y".into()],
                ..Node::default()
            }],
            ..relu()
        };
        assert!(matches!(read(&super::super::write(&cyclic)), Err(OnnxError::Graph(_))));
    }
}
