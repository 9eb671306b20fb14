//! Configuration files as Postgres reads them: bytes, of whatever encoding their comments are in. They are handled as text here, in which a byte that
//! is no UTF-8 stands as a character of a range that nobody uses, and goes back to the file as the byte that it was.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::error::{Error, Result};

/// The last 256 characters that there are, private ones.
const BASE: u32 = 0x10_FF00;

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read(path).map(|bytes| from_bytes(&bytes)).map_err(|error| Error::io("read", path, error))
}

/// The same, empty where there is none.
pub(crate) fn read_if_there(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(from_bytes(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// Replaces the content of a file, durably.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    durable::write(path, &to_bytes(text), mode)
}

/// A path that stands in such a file.
pub(crate) fn path(text: &str) -> PathBuf {
    OsString::from_vec(to_bytes(text)).into()
}

fn from_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if u32::from(character) >= BASE {
                text.extend(character.encode_utf8(&mut [0; 4]).bytes().map(stand_in));
            } else {
                text.push(character);
            }
        }
        text.extend(chunk.invalid().iter().copied().map(stand_in));
    }
    text
}

fn to_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match u32::from(character).checked_sub(BASE).and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

fn stand_in(byte: u8) -> char {
    char::from_u32(BASE + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back_as_it_was() {
        let all: Vec<u8> = (0..=255).collect();
        let ends = "# größer \u{10ffff} \u{10ff41}\n".as_bytes().to_vec();
        for bytes in [all, ends, b"# gr\xf6\xdfer\nwork_mem = 4MB\n".to_vec()] {
            assert_eq!(to_bytes(&from_bytes(&bytes)), bytes);
        }
        assert!(from_bytes(b"# gr\xf6\xdfer\nwork_mem = 4MB\n").lines().any(|line| line == "work_mem = 4MB"));
    }
}
