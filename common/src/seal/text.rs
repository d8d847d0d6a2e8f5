//! Small secrets sealed to keys: as a file of age, without more in it.

use std::io::{Read as _, Write as _};

use zeroize::Zeroizing;

use super::{Recipient, SealError, SealKey, closed, encryptor, failed};

/// Longest secret that is opened, in bytes.
const LIMIT: u64 = 64 * 1024;

/// Seals a secret to these keys.
///
/// # Errors
/// [`SealError::Content`] if there is none to seal to.
pub fn seal_text(secret: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>, SealError> {
    let cannot_write = || failed("cannot write", std::path::Path::new("the sealed secret"));
    let mut sealed = Vec::new();
    let mut writer = encryptor(recipients)?.wrap_output(&mut sealed).map_err(cannot_write())?;
    writer.write_all(secret).map_err(cannot_write())?;
    writer.finish().map_err(cannot_write())?;
    Ok(sealed)
}

/// Opens a secret that was sealed to this key.
///
/// # Errors
/// [`SealError::Closed`] if it is not for this key, or altered.
pub fn open_text(sealed: &[u8], key: &SealKey) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let decryptor = age::Decryptor::new_buffered(sealed).map_err(closed)?;
    let plain = decryptor.decrypt(std::iter::once(&key.0 as &dyn age::Identity)).map_err(closed)?;
    // Large enough from the start: what grows leaves copies behind.
    let mut secret = Zeroizing::new(Vec::with_capacity(sealed.len()));
    plain.take(LIMIT).read_to_end(&mut secret).map_err(|error| SealError::Closed(error.to_string()))?;
    Ok(secret)
}
