//! How messages become bytes: prost's codec with buffers that begin small. A buffer lives as long as its call, a session's
//! for days, and tonic's own begin at 8 KiB each way.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// A buffer's first bytes: a report or an acknowledgement fits. It grows with what comes.
const FIRST_BYTES: usize = 256;
/// Messages that are ready go together, up to so many bytes: a peer sees a frame of HTTP/2 when all of it is there, and on a
/// slow line each piece of an update is to be seen, and kept, by itself.
const TOGETHER_BYTES: usize = 4 * 1024;

/// The codec of all services here.
#[derive(Debug)]
pub struct Small<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Small<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(FIRST_BYTES, TOGETHER_BYTES)
}

impl<T, U> Codec for Small<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(buffers())
    }
}
