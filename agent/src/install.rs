//! From the pieces of an update to a stored variant, and from there into force. Nothing here waits for the line.
//!
//! An update is decoded as its pieces are read from the cache; what comes out goes to a file ([`Scratch`]), as does the base
//! before, and from there, when the whole digest holds, tensor by tensor into the variant's stored form. So memory holds a
//! frame, the decoder's models and one tensor, however large the model. The power may go at any byte: the variant
//! becomes held by one record, written last.

use std::path::Path;

use anyhow::{Context, bail};
use secateur_common::{ByteCount, Digest, Generation, VariantId, caps, probe_input};
use secateur_engine::Session;
use secateur_model::Graph;
use secateur_update::{Base, Collector, DecodeError, Decoder, Manifest, Sink};

use crate::cache::Cache;
use crate::core::{Active, UpdateRef, Wanted};
use crate::link::Probe;
use crate::loaded::Loaded;
use crate::scratch::Scratch;

/// Makes the variant of a whole update held. Whatever comes of it, the update's bytes are used up; a base that cannot be
/// read is dropped.
///
/// # Errors
/// Where the bytes are not those that were said, are unsound, are for another base, variant or generation, the base is
/// damaged, or the cache cannot be written.
pub fn store(cache: &Cache, folder: &Path, update: UpdateRef, wanted: &Wanted) -> anyhow::Result<()> {
    let stored = decode(cache, folder, update, wanted).and_then(|made| keep(cache, &made));
    // After the variant is held, so that a cut between costs no second download.
    cache.drop_partials(None)?;
    if stored.is_err() {
        cache.drop_unheld()?;
    }
    stored
}

/// The update's variant, its digest found to hold.
fn decode(cache: &Cache, folder: &Path, update: UpdateRef, wanted: &Wanted) -> anyhow::Result<Scratch> {
    let base = match update.base {
        None => None,
        Some(base) => match unpack(cache, folder, base) {
            Ok(scratch) => Some(scratch),
            Err(error) => {
                cache.drop_variant(base)?;
                return Err(error.context("the base is damaged and was dropped"));
            }
        },
    };
    let base = base.as_ref().map(|base| base as &dyn Base);
    let check = |manifest: &Manifest| {
        let said = (update.base, wanted.variant, wanted.generation);
        if (manifest.base, manifest.target, manifest.generation) != said {
            bail!("the update is for another base, variant or generation than the one assigned");
        }
        Ok(())
    };
    let mut feed = Feed::new(base, Scratch::new(folder, wanted.variant)?, check);
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    while at < update.size.get() {
        let piece = cache.partial(update.id, at)?.filter(|piece| !piece.is_empty());
        let piece = piece.context("a piece of the update is missing")?;
        hasher.update(&piece);
        at += piece.len() as u64;
        feed.piece(&piece)?;
    }
    if Digest::from_bytes(*hasher.finalize().as_bytes()) != update.id {
        bail!("the update's bytes are not those that were said");
    }
    feed.finish()?.finish().map_err(|error| anyhow::anyhow!(error).context("cannot write the variant"))
}

/// Brings a variant into its stored form, which is the same whatever update led to it.
fn keep(cache: &Cache, made: &Scratch) -> anyhow::Result<()> {
    let variant = made.variant_id();
    cache.drop_variant(variant)?;
    let (mut index, mut payload) = (0, 0);
    let manifest = secateur_update::store(made, Generation(0), |frame| {
        cache.put_frame(variant, index, frame)?;
        index += 1;
        payload += frame.len() as u64;
        Ok(())
    })?;
    Ok(cache.hold(variant, &manifest, ByteCount(payload))?)
}

/// A held variant, decoded into a file.
fn unpack(cache: &Cache, folder: &Path, variant: VariantId) -> anyhow::Result<Scratch> {
    let scratch = read(cache, variant, Scratch::new(folder, variant)?)?;
    scratch.finish().map_err(|error| anyhow::anyhow!(error).context("cannot write the base"))
}

/// A held variant as a graph.
///
/// # Errors
/// Where it is not held, or damaged.
pub fn stored(cache: &Cache, variant: VariantId) -> anyhow::Result<Graph> {
    Ok(read(cache, variant, Collector::new(None))?.graph()?)
}

/// Decodes a held variant, frame by frame, into `sink`.
fn read<S: Sink>(cache: &Cache, variant: VariantId, sink: S) -> anyhow::Result<S> {
    let manifest = cache.manifest(variant)?.context("the variant is not held, or its file is not whole")?;
    let manifest = Manifest::read(&manifest)?;
    if manifest.target != variant || manifest.base.is_some() {
        bail!("the stored bytes are of another variant");
    }
    let frames = manifest.frames() as u32;
    let mut decoder = Decoder::new(manifest, None, sink)?;
    for index in 0..frames {
        decoder.frame(&cache.frame(variant, index)?.context("a frame of the variant is missing")?)?;
    }
    Ok(decoder.finish()?.1)
}

/// Tests the stored variant on the probe, where there is one, and brings it into force; as it was loaded for the test.
pub(crate) fn activate(
    cache: &Cache,
    wanted: &Wanted,
    probe: Option<&Probe>,
) -> anyhow::Result<(Graph, Option<Loaded>)> {
    let active =
        Active { model: wanted.model.clone(), variant: wanted.variant, generation: wanted.generation };
    let graph = match stored(cache, active.variant) {
        Ok(graph) => graph,
        Err(error) => {
            cache.drop_variant(wanted.variant)?;
            return Err(error.context("the stored variant is damaged and was dropped"));
        }
    };
    let test = |probe: &Probe| {
        let loaded = Loaded::load(cache, wanted.variant, &graph)?;
        self_test(&loaded.session, probe)?;
        anyhow::Ok(loaded)
    };
    let loaded = probe.map(test).transpose()?;
    cache.activate(&active)?;
    tracing::info!(variant = %active.variant.0.short(), generation = %active.generation, "in force");
    Ok((graph, loaded))
}

/// The variant must give the outputs that the coordinator got.
fn self_test(session: &Session, probe: &Probe) -> anyhow::Result<()> {
    let input = probe_input(probe.seed, session.input_shape().iter().product());
    let output = session.run(&input)?;
    let scale = probe.expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let fits = |(found, expected): (&f32, &f32)| (found - expected).abs() <= probe.tolerance * scale;
    if output.len() < probe.expected.len() || !output.iter().zip(&probe.expected).all(fits) {
        bail!("self-test failed: the outputs on the probe are not those expected");
    }
    Ok(())
}

/// Cuts the bytes of an update, which come in any pieces, into its manifest and frames.
struct Feed<'b, S, C> {
    base: Option<&'b dyn Base>,
    check: C,
    pending: Vec<u8>,
    state: State<'b, S>,
}

enum State<'b, S> {
    Manifest(Option<S>),
    Frames(Box<Decoder<'b, S>>),
}

impl<'b, S: Sink, C: Fn(&Manifest) -> anyhow::Result<()>> Feed<'b, S, C> {
    fn new(base: Option<&'b dyn Base>, sink: S, check: C) -> Self {
        Self { base, check, pending: Vec::new(), state: State::Manifest(Some(sink)) }
    }

    fn piece(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.pending.extend_from_slice(piece);
        if let State::Manifest(sink) = &mut self.state {
            let manifest = match Manifest::read(&self.pending) {
                Err(DecodeError::Truncated) => return Ok(()), // more of it follows
                manifest => manifest?,
            };
            (self.check)(&manifest)?;
            self.pending.drain(..manifest.header_bytes());
            let sink = sink.take().context("a manifest after its end")?;
            self.state = State::Frames(Box::new(Decoder::new(manifest, self.base, sink)?));
        }
        while self.pending.len() >= caps::FRAME_BYTES {
            self.frame(caps::FRAME_BYTES)?;
        }
        Ok(())
    }

    fn frame(&mut self, length: usize) -> anyhow::Result<()> {
        if let State::Frames(decoder) = &mut self.state {
            decoder.frame(&self.pending[..length])?;
            self.pending.drain(..length);
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<S> {
        if !self.pending.is_empty() {
            self.frame(self.pending.len())?;
        }
        match self.state {
            State::Frames(decoder) => Ok(decoder.finish()?.1),
            State::Manifest(_) => Err(DecodeError::Truncated.into()),
        }
    }
}

#[cfg(test)]
mod tests;
