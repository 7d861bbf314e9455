//! What an update carries besides tensors: the skeleton and the table of the tensors' names, as one text. Where the base
//! has the same text it is not carried; where it has another one (a depthwise convolution's number of groups follows its
//! channels), that one is what the new text is predicted from.

use secateur_common::caps;
use secateur_model::{Graph, canonical};

use crate::DecodeError;
use crate::bytes::{Reader, put};
use crate::manifest::contradiction;

/// The two parts of the text.
#[derive(Clone, PartialEq)]
pub(crate) struct Text {
    pub(crate) skeleton: Vec<u8>,
    pub(crate) names: Vec<u8>,
}

impl Text {
    pub(crate) fn of(graph: &Graph) -> Self {
        let mut names = Vec::new();
        for name in graph.initializers.keys() {
            put(&mut names, name.len() as u64);
            names.extend_from_slice(name.as_bytes());
        }
        Self { skeleton: canonical::skeleton(graph), names }
    }

    pub(crate) fn joined(&self) -> Vec<u8> {
        [self.skeleton.as_slice(), &self.names].concat()
    }

    /// The text with its skeleton's length given.
    pub(crate) fn split(mut joined: Vec<u8>, skeleton: usize) -> Self {
        let names = joined.split_off(skeleton.min(joined.len()));
        Self { skeleton: joined, names }
    }

    /// The names: each has its length before it, and they ascend.
    ///
    /// # Errors
    /// Where they do not, or one is too long or no UTF-8.
    pub(crate) fn read_names(&self) -> Result<Vec<String>, DecodeError> {
        let mut reader = Reader(&self.names);
        let mut names: Vec<String> = Vec::new();
        while !reader.0.is_empty() {
            let length = reader.count("name", caps::GRAPH_NAME_BYTES)?;
            let name = std::str::from_utf8(reader.take(length)?);
            let name = name.map_err(|_| contradiction("a name is not UTF-8"))?;
            if names.last().is_some_and(|last| last.as_str() >= name) {
                return Err(contradiction("the order of names"));
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }
}
