//! How many fields a file has, counted before it is decoded: a field of two bytes may become hundreds in memory.

use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Fields of all messages, at most.
const FIELDS: usize = 4 << 20;
/// Attributes of all nodes, at most: each takes hundreds of bytes once decoded.
const ATTRIBUTES: usize = 1 << 20;

/// A message with messages in it: which tags hold which.
struct Kind {
    inner: &'static [(u32, &'static Kind)],
    is_attribute: bool,
}

const fn kind(inner: &'static [(u32, &'static Kind)]) -> Kind {
    Kind { inner, is_attribute: false }
}

static MODEL: Kind = kind(&[(7, &GRAPH), (8, &LEAF), (25, &LEAF)]);
static GRAPH: Kind = kind(&[(1, &NODE), (5, &LEAF), (11, &VALUE), (12, &VALUE), (13, &VALUE), (15, &SPARSE)]);
static NODE: Kind = kind(&[(5, &ATTRIBUTE)]);
static ATTRIBUTE: Kind = Kind { inner: &[(5, &LEAF)], is_attribute: true };
static VALUE: Kind = kind(&[(2, &TYPE)]);
static TYPE: Kind = kind(&[(1, &TENSOR_TYPE)]);
static TENSOR_TYPE: Kind = kind(&[(2, &SHAPE)]);
static SHAPE: Kind = kind(&[(1, &LEAF)]);
static SPARSE: Kind = kind(&[(1, &LEAF)]);
static LEAF: Kind = kind(&[]);

#[derive(Default)]
struct Counts {
    fields: usize,
    attributes: usize,
}

/// Whether a model of these bytes has few enough fields; bytes that are no message are for the decoder to refuse.
pub(super) fn are_few(bytes: &[u8]) -> bool {
    let mut counts = Counts::default();
    let _ = count(&MODEL, bytes, &mut counts);
    counts.fields <= FIELDS && counts.attributes <= ATTRIBUTES
}

/// Counts until there are too many, or `None` where the bytes are no message.
fn count(kind: &Kind, mut bytes: &[u8], counts: &mut Counts) -> Option<()> {
    while !bytes.is_empty() && counts.fields <= FIELDS && counts.attributes <= ATTRIBUTES {
        let (tag, wire) = decode_key(&mut bytes).ok()?;
        counts.fields += 1;
        let inner = kind.inner.iter().find(|(of, _)| *of == tag).map(|(_, inner)| *inner);
        match inner.filter(|_| wire == WireType::LengthDelimited) {
            Some(inner) => {
                let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                counts.attributes += usize::from(inner.is_attribute);
                count(inner, bytes.get(..length)?, counts)?;
                bytes.advance(length);
            }
            None => skip_field(wire, tag, &mut bytes, DecodeContext::default()).ok()?,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that holds `bytes`.
    fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
        let mut encoded = vec![tag << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut encoded);
        encoded.extend_from_slice(bytes);
        encoded
    }

    #[test]
    fn too_many_attributes_or_names_are_refused_before_they_are_decoded() {
        let node = |tag: u8, count: usize| field(7, &field(1, &field(tag, &[]).repeat(count)));
        assert!(are_few(&node(5, ATTRIBUTES)));
        assert!(!are_few(&node(5, ATTRIBUTES + 1)));
        assert!(are_few(&node(1, FIELDS - 2)));
        assert!(!are_few(&node(1, FIELDS)));
        let raw = field(7, &field(5, &field(9, &[0x2a, 0].repeat(ATTRIBUTES + 1))));
        assert!(are_few(&raw), "the elements of a tensor are no fields");
        assert!(matches!(
            crate::onnx::read(&node(5, ATTRIBUTES + 1)),
            Err(crate::onnx::OnnxError::TooManyFields)
        ));
    }
}
