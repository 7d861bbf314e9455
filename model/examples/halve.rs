//! For `bench/zoo`: a drawn half of every channel group of a model, cut and masked, so that another runtime can judge.
//!
//! `halve MODEL.onnx FOLDER NAME=TYPE:AxBxC …` reads `FOLDER/input<i>.bin` (little-endian, in the order of the
//! arguments) and writes `FOLDER/masked.onnx`, `FOLDER/cut.onnx`, and what the reference interpreter makes of the
//! dense model's float outputs: `FOLDER/dense<i>.bin`.

use std::error::Error;
use std::path::Path;

use secateur_model::groups::{self, KeepSets};
use secateur_model::{Graph, Tensor, eval, onnx, shape};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, folder, inputs @ ..] = arguments.as_slice() else {
        return Err("usage: halve MODEL.onnx FOLDER NAME=TYPE:AxBxC …".into());
    };
    let folder = Path::new(folder);
    let dense = onnx::read(&std::fs::read(model)?)?;
    let mut prepared = dense.clone();
    groups::prepare(&mut prepared);
    let found = groups::find(&prepared, &shape::infer(&prepared, 1)?);
    let keep = halves(&found);
    let write =
        |name: &str, graph: &Graph| std::fs::write(folder.join(format!("{name}.onnx")), onnx::write(graph));
    write("masked", &groups::masked(&prepared, &found, &keep)?)?;
    write("cut", &groups::cut(&prepared, &found, &keep)?)?;
    let inputs: Vec<(&str, Tensor)> =
        inputs.iter().enumerate().map(|(i, input)| read_input(folder, i, input)).collect::<Outcome<_>>()?;
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let fetch: Vec<&str> = dense.outputs.iter().map(|output| output.name.as_str()).collect();
    let values = eval::run(&dense, &inputs, &fetch)?;
    for (index, name) in fetch.iter().enumerate() {
        if let Some(floats) = values[*name].as_f32() {
            let bytes: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
            std::fs::write(folder.join(format!("dense{index}.bin")), bytes)?;
        }
    }
    Ok(())
}

/// Half of each group's channels, at least one, drawn without regard to their weights.
fn halves(found: &groups::Groups) -> KeepSets {
    let mut state = 0x9e37_79b9_u32;
    let mut draw = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let half = |group: &groups::Group| {
        let mut ranked: Vec<(u32, usize)> = (0..group.channels).map(|channel| (draw(), channel)).collect();
        ranked.sort_unstable();
        ranked.truncate(group.channels.div_ceil(2));
        let mut kept: Vec<usize> = ranked.into_iter().map(|(_, channel)| channel).collect();
        kept.sort_unstable();
        kept
    };
    found.groups.iter().map(half).collect()
}

fn read_input<'a>(folder: &Path, index: usize, argument: &'a str) -> Outcome<(&'a str, Tensor)> {
    let (name, rest) = argument.split_once('=').ok_or("an input is NAME=TYPE:AxBxC")?;
    let (kind, dims) = rest.split_once(':').ok_or("an input is NAME=TYPE:AxBxC")?;
    let shape: Vec<usize> =
        dims.split('x').filter(|dim| !dim.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
    let bytes = std::fs::read(folder.join(format!("input{index}.bin")))?;
    let tensor = match kind {
        "float32" => Tensor::f32(
            shape,
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        )?,
        "int64" => {
            let words = bytes.chunks_exact(8).map(|b| b.try_into().map(i64::from_le_bytes));
            Tensor::i64(shape, words.collect::<Result<_, _>>()?)?
        }
        other => return Err(format!("inputs of {other} are not read here").into()),
    };
    Ok((name, tensor))
}
