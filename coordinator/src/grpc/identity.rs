//! Who dials: the device's identity follows from the credential of its connection. With mutual TLS it will follow from
//! the certificate, here and nowhere else.

use secateur_common::{DeviceId, Digest};
use secateur_proto::{DEVICE_KEY_METADATA, JOIN_TOKEN_METADATA};
use tonic::{Request, Status};

/// Bytes of a device's credential.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 32..=64;

/// The identity of who sent `request`.
///
/// # Errors
/// `UNAUTHENTICATED` where there is no credential, or the fleet's join token is wrong.
pub(super) fn of<T>(request: &Request<T>, join_token: &str) -> Result<DeviceId, Status> {
    let metadata = request.metadata();
    let token = metadata.get(JOIN_TOKEN_METADATA).map(|token| token.as_bytes()).unwrap_or_default();
    // Digests are compared, so that the time taken tells nothing of the token.
    if Digest::of(token) != Digest::of(join_token.as_bytes()) {
        return Err(Status::unauthenticated(
            "the join token is wrong: give the agent the coordinator's `join_token`",
        ));
    }
    let key = metadata.get_bin(DEVICE_KEY_METADATA).and_then(|key| key.to_bytes().ok());
    let key = key.filter(|key| KEY_BYTES.contains(&key.len()));
    let key = key.ok_or_else(|| Status::unauthenticated("the connection carries no device credential"))?;
    Ok(DeviceId::of_credential(&key))
}
