//! A bad link in user space: a TCP proxy with a rate, a delay and, if asked, loss, cuts and a stall. It needs no privileges.

mod loss;

use std::net::SocketAddr;
use std::time::Duration;

use secateur_common::{ByteCount, Micros, Share};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::loss::{Fate, Line};
use crate::failure::{OrFail, Outcome};

pub use self::loss::Loss;

/// `secateur link`
#[derive(clap::Args, Clone, Debug)]
pub struct LinkArgs {
    /// Where to listen, such as 127.0.0.1:0; the address that was bound is printed
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
    /// Where to connect to for each connection that comes in
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Bytes a second, each way
    #[arg(long, default_value = "64KiB", value_name = "BYTES")]
    rate: ByteCount,
    /// Added to each piece of data, each way
    #[arg(long, default_value = "50ms", value_name = "TIME")]
    delay: Micros,
    /// Segments of 1,460 bytes that are lost, such as 2%: what follows waits until one was sent again, after a round trip
    /// or 200 ms, twice as long each time; 8 losses in a row break the connection
    #[arg(long, value_name = "SHARE")]
    loss: Option<Share>,
    /// Break each connection after about this many bytes of a direction: half to one and a half times, drawn anew each time
    #[arg(long, value_name = "BYTES")]
    cut: Option<ByteCount>,
    /// Of the dice for --loss and --cut
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// Stand still once for this long …
    #[arg(long, value_name = "TIME")]
    stall: Option<Micros>,
    /// … after this many bytes of a direction of a connection
    #[arg(long, default_value = "0", value_name = "BYTES", requires = "stall")]
    stall_after: ByteCount,
}

/// What a link does to the data that passes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes a second, each way.
    pub rate: ByteCount,
    /// Added to each piece.
    pub delay: Micros,
    /// What is lost, and how long connections last.
    pub loss: Loss,
    /// A pause, and after how many bytes it is made.
    pub stall: Option<(ByteCount, Micros)>,
}

/// Pieces in flight in one direction, at most: bounds the memory at a long delay.
const IN_FLIGHT: usize = 64;
const PIECE_BYTES: usize = 16 * 1024;
/// Data leaves in slices of a twentieth of a second, so that a slow link is slow for few bytes too.
const SLICES_PER_SECOND: u64 = 20;

/// Runs `secateur link` until it is told to stop; `listening` is told the address.
///
/// # Errors
/// Where the address cannot be bound.
pub async fn main(args: LinkArgs, listening: impl FnOnce(SocketAddr) -> Outcome) -> Outcome {
    let advice = "give a free address, such as 127.0.0.1:0";
    let doing = format!("cannot listen on {}", args.listen);
    let listener = TcpListener::bind(&args.listen).await.or_work(&doing, advice)?;
    listening(listener.local_addr().or_work(&doing, advice)?)?;
    let stall = args.stall.map(|time| (args.stall_after, time));
    let loss = Loss { share: args.loss, cut: args.cut };
    let (_fixed, shape) = watch::channel(Shape { rate: args.rate, delay: args.delay, loss, stall });
    tokio::select! {
        () = serve(listener, args.to, args.seed, shape) => {}
        () = crate::signal::stop() => {}
    }
    Ok(())
}

/// Passes each connection of `listener` on to `to`, shaped as `shape` says at the time; `seed` is of the dice.
pub async fn serve(listener: TcpListener, to: String, seed: u64, shape: watch::Receiver<Shape>) {
    let mut connections: u64 = 0;
    loop {
        match listener.accept().await {
            Ok((near, peer)) => {
                let (to, shape) = (to.clone(), shape.clone());
                let seed = seed.rotate_left(32) ^ (2 * connections); // two directions, two seeds
                connections += 1;
                tokio::spawn(async move {
                    if let Err(error) = join(near, &to, seed, shape).await {
                        tracing::debug!(%peer, %to, %error, "link closed");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: a pause lets connections end.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn join(near: TcpStream, to: &str, seed: u64, shape: watch::Receiver<Shape>) -> std::io::Result<()> {
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let (up, down) = (Line::new(seed), Line::new(seed ^ 1));
    tokio::try_join!(pass(near_in, far_out, up, shape.clone()), pass(far_in, near_out, down, shape))?;
    Ok(())
}

/// One direction: a delay line, then pacing and loss.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut into: impl AsyncWrite + Unpin,
    mut line: Line,
    shape: watch::Receiver<Shape>,
) -> std::io::Result<()> {
    let (send, mut receive) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let delayed = shape.clone();
    let take = async move {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = from.read(&mut piece).await?;
            let due = Instant::now() + time(delayed.borrow().delay);
            if length == 0 || send.send((due, piece[..length].to_vec())).await.is_err() {
                return std::io::Result::Ok(());
            }
        }
    };
    let give = async move {
        let (mut passed, mut stalled) = (0, false);
        while let Some((due, piece)) = receive.recv().await {
            tokio::time::sleep_until(due).await;
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let Shape { rate, delay, loss, stall } = *shape.borrow();
                if let Some((after, pause)) = stall.filter(|(after, _)| !stalled && passed >= after.get()) {
                    tracing::debug!(%after, %pause, "stall");
                    tokio::time::sleep(time(pause)).await;
                    stalled = true;
                }
                let rate = rate.get().max(1);
                let slice = (rate / SLICES_PER_SECOND).clamp(1, rest.len() as u64);
                let (now, later) = rest.split_at(slice as usize);
                match line.send(slice, loss, time(delay) * 2) {
                    Fate::Late(wait) => tokio::time::sleep(wait).await,
                    Fate::Cut => return Err(std::io::Error::other("cut, as asked")),
                }
                into.write_all(now).await?;
                tokio::time::sleep(Duration::from_secs_f64(slice as f64 / rate as f64)).await;
                passed += slice;
                rest = later;
            }
        }
        into.shutdown().await
    };
    tokio::try_join!(take, give)?;
    Ok(())
}

fn time(micros: Micros) -> Duration {
    Duration::from_micros(micros.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        rate: ByteCount(256 * 1024),
        delay: Micros(5_000),
        loss: Loss { share: None, cut: None },
        stall: None,
    };

    /// An echo behind a link of this shape: what comes back of what is sent, and how long it took.
    async fn echoed(shape: Shape, sent: Vec<u8>) -> (std::io::Result<Vec<u8>>, Duration) {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = far.local_addr().unwrap().to_string();
        let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = near.local_addr().unwrap();
        let (_fixed, shape) = watch::channel(shape);
        tokio::spawn(serve(near, to, 1, shape));
        tokio::spawn(async move {
            let (mut echo, _) = far.accept().await.unwrap();
            let (mut read, mut write) = echo.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let start = Instant::now();
        let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        tokio::spawn(async move {
            let _ = write.write_all(&sent).await;
            let _ = write.shutdown().await;
        });
        let mut back = Vec::new();
        let result = read.read_to_end(&mut back).await.map(|_| back);
        (result, start.elapsed())
    }

    fn data() -> Vec<u8> {
        (0..64 * 1024u32).map(|i| i as u8).collect()
    }

    #[tokio::test]
    async fn data_passes_unchanged_and_no_faster_than_the_rate() {
        let (back, took) = echoed(SHAPE, data()).await;
        assert_eq!(back.unwrap(), data());
        assert!(took >= Duration::from_millis(180), "{took:?}");
    }

    #[tokio::test]
    async fn loss_makes_it_late_and_changes_nothing() {
        let loss = Loss { share: Some("5%".parse().unwrap()), cut: None };
        let (back, took) = echoed(Shape { rate: ByteCount(64 << 20), loss, ..SHAPE }, data()).await;
        assert_eq!(back.unwrap(), data());
        assert!(took >= Duration::from_millis(400), "of 90 segments several are sent again: {took:?}");
    }

    #[tokio::test]
    async fn a_cut_ends_the_connection_early() {
        let loss = Loss { share: None, cut: Some(ByteCount(2048)) };
        let (back, _) = echoed(Shape { loss, ..SHAPE }, data()).await;
        assert!(back.map_or(0, |back| back.len()) < data().len());
    }
}
