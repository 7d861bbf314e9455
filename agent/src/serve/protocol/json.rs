//! Requests and answers as JSON, with tensors as numbers in it or as bytes behind it.
//!
//! Numbers go straight into a list of floats, however deep their lists are, so a request takes four bytes a number.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{Answer, DATATYPE, Data, ELEMENT_BYTES, Inference, Refused, Sent, Signature, bytes, checked_id};

/// Numbers of nested lists, one after another; `null` is NaN.
#[derive(Default, Debug)]
pub struct Flat(pub Vec<f32>);

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    id: String,
    #[serde(default)]
    parameters: RequestParameters,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Deserialize, Default)]
struct RequestParameters {
    #[serde(default)]
    binary_data_output: bool,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: InputParameters,
    data: Option<Flat>,
}

#[derive(Deserialize, Default)]
struct InputParameters {
    binary_data_size: Option<u64>,
    shared_memory_region: Option<String>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Deserialize, Default)]
struct OutputParameters {
    binary_data: Option<bool>,
    #[serde(default)]
    classification: u64,
    shared_memory_region: Option<String>,
}

/// Reads a request: JSON, or where `header_bytes` tells its length, JSON and the tensors' bytes behind it.
///
/// # Errors
/// Where it is not well formed, or not of the model with `signature`.
pub fn read(body: &[u8], header_bytes: Option<usize>, signature: &Signature) -> Result<Inference, Refused> {
    let header_bytes = header_bytes.unwrap_or(body.len());
    let Some((header, mut behind)) = body.split_at_checked(header_bytes) else {
        let text = format!("a header of {header_bytes} bytes in a body of {}", body.len());
        return Err(Refused::invalid(text));
    };
    let Request { id, parameters, mut inputs, outputs }: Request = parse(header)?;
    checked_id(&id)?;
    let numbers: Vec<Option<Flat>> = inputs.iter_mut().map(|input| input.data.take()).collect();
    let mut sent = Vec::with_capacity(inputs.len());
    for (input, numbers) in inputs.iter().zip(numbers) {
        let (name, datatype, shape) = (&input.name, &input.datatype, &input.shape);
        sent.push(Sent { name, datatype, shape, data: input.elements(numbers, &mut behind)? });
    }
    if !behind.is_empty() {
        return Err(Refused::invalid(format!("{} bytes belong to no input", behind.len())));
    }
    let mut binary_output = parameters.binary_data_output;
    for Output { name, parameters } in &outputs {
        signature.output(name)?;
        if parameters.classification > 0 || parameters.shared_memory_region.is_some() {
            return Err(Refused::invalid("classification and shared memory are not offered"));
        }
        binary_output = parameters.binary_data.unwrap_or(binary_output);
    }
    let (rows, values) = signature.input(sent)?;
    Ok(Inference { id, rows, values, binary_output })
}

impl Input {
    /// Its numbers, or its share of the bytes `behind` the JSON.
    fn elements<'a>(&self, numbers: Option<Flat>, behind: &mut &'a [u8]) -> Result<Data<'a>, Refused> {
        let InputParameters { binary_data_size, shared_memory_region } = &self.parameters;
        match (numbers, binary_data_size, shared_memory_region) {
            (_, _, Some(_)) => Err(Refused::invalid("shared memory is not offered")),
            (Some(Flat(values)), None, None) => Ok(Data::Values(values)),
            (None, Some(size), None) => {
                let size = usize::try_from(*size).ok();
                let Some((own, rest)) = size.and_then(|size| behind.split_at_checked(size)) else {
                    return Err(Refused::invalid("binary_data_size is more than there is"));
                };
                *behind = rest;
                Ok(Data::Bytes(own))
            }
            _ => Err(Refused::invalid("an input has either data or binary_data_size")),
        }
    }
}

/// The body of an answer; where its output is as bytes, the length of the JSON before them.
pub fn write(answer: &Answer<'_>, binary: bool) -> (Vec<u8>, Option<usize>) {
    #[derive(Serialize)]
    struct Response<'a> {
        model_name: &'a str,
        model_version: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        id: &'a str,
        outputs: [ResponseOutput<'a>; 1],
    }
    #[derive(Serialize)]
    struct ResponseOutput<'a> {
        name: &'a str,
        datatype: &'static str,
        shape: Vec<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        parameters: Option<BinarySize>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a [f32]>,
    }
    #[derive(Serialize)]
    struct BinarySize {
        binary_data_size: usize,
    }
    let Answer { model, version, id, output, rows, values } = *answer;
    let output = ResponseOutput {
        name: &output.name,
        datatype: DATATYPE,
        shape: output.batch(rows as i64),
        parameters: binary.then_some(BinarySize { binary_data_size: values.len() * ELEMENT_BYTES }),
        data: (!binary).then_some(values),
    };
    let response = Response { model_name: model, model_version: version, id, outputs: [output] };
    let mut body = serde_json::to_vec(&response).unwrap_or_default();
    let header_bytes = binary.then_some(body.len());
    if binary {
        body.extend(bytes(values));
    }
    (body, header_bytes)
}

/// Reads a label fed back: `{"id": "…", "label": 3}`.
///
/// # Errors
/// Where it is not that.
pub fn read_label(body: &[u8]) -> Result<(String, u64), Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Label {
        id: String,
        label: u64,
    }
    let Label { id, label } = parse(body)?;
    checked_id(&id)?;
    Ok((id, label))
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Refused> {
    serde_json::from_slice(json).map_err(|error| Refused::invalid(format!("not a request: {error}")))
}

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = Self::default();
        deserializer.deserialize_seq(Numbers(&mut flat.0))?;
        Ok(flat)
    }
}

/// Adds a number, or those of a list.
struct Numbers<'a>(&'a mut Vec<f32>);

impl<'de> DeserializeSeed<'de> for Numbers<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Numbers<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers, or lists of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Numbers(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.0.push(value as f32);
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.0.push(value as f32);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.0.push(value as f32);
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.push(f32::NAN);
        Ok(())
    }
}
