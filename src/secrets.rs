//! The secrets that a server makes for itself: 32 random bytes as text, in a file of mode 0600.
//!
//! It never replaces a file that is there, and never shows one to anybody but its owner.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::tables::SECRET_BYTES_MAX;

/// Name of the HS256 secret in the data directory.
pub const TOKEN_SECRET: &str = "token-secret";
/// Name of the API key in the data directory.
pub const API_KEY: &str = "api-key";

/// Makes a directory that only its owner can look into, with its parents; an existing one is left
/// as it is.
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The text of this file.
///
/// # Errors
/// Those of reading; [`io::ErrorKind::InvalidData`] when it is longer than this, or not text.
pub fn read(path: &Path, bytes_max: usize) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than allowed shows that there is too much, without reading all of it.
    File::open(path)?.take(bytes_max as u64 + 1).read_to_string(&mut text)?;
    if text.len() > bytes_max {
        let problem = format!("must have at most {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(text)
}

/// The secret in this file, without white space at its end.
///
/// # Errors
/// Those of [`read`]; [`io::ErrorKind::InvalidData`] when it is empty.
pub fn load(path: &Path) -> io::Result<String> {
    // A line end of two bytes does not count.
    let mut text = read(path, SECRET_BYTES_MAX + 2)?;
    text.truncate(text.trim_end().len());
    if text.is_empty() || text.len() > SECRET_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("must hold 1 to {SECRET_BYTES_MAX} bytes"),
        ));
    }
    Ok(text)
}

/// The secret in this file; made, durably, when there is no such file. The directory must exist.
/// The second part says whether it was made.
///
/// # Errors
/// Those of [`load`], of writing, and of the system's random source.
pub fn load_or_create(path: &Path) -> io::Result<(String, bool)> {
    match load(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        loaded => return loaded.map(|secret| (secret, false)),
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let text = URL_SAFE_NO_PAD.encode(bytes);
    // Written aside and linked, so that the name never shows a part of it and nobody's is
    // replaced: of two processes that do this at once, the second takes the first one's.
    let aside = path.with_extension(format!("new-{}", std::process::id()));
    let linked = write_new(&aside, &text).and_then(|()| fs::hard_link(&aside, path));
    let removed = fs::remove_file(&aside);
    match linked {
        Ok(()) => removed?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return load(path).map(|secret| (secret, false));
        }
        Err(error) => return Err(error),
    }
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok((text, true))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // What a process of the same id left when it crashed is in the way of nobody.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_made_once_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(TOKEN_SECRET);
        let (made, new) = load_or_create(&path).expect("made");
        assert!(new);
        assert_eq!(URL_SAFE_NO_PAD.decode(&made).expect("text form of 32 bytes").len(), 32);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(load_or_create(&path).expect("read"), (made.clone(), false));
        assert_eq!(load(&path).expect("read"), made);
        let names = fs::read_dir(directory.path()).expect("listed").count();
        assert_eq!(names, 1, "nothing is left aside");
    }

    #[test]
    fn files_that_are_no_secrets_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        for bad in [b"".as_slice(), b" \n", &[b'x'; SECRET_BYTES_MAX + 1], &[0xff, 0xfe]] {
            fs::write(&path, bad).expect("written");
            let error = load(&path).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        fs::write(&path, "of the operator\r\n").expect("written");
        assert_eq!(load(&path).expect("read"), "of the operator");
    }

    #[test]
    fn a_directory_is_made_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b");
        create_private_directory(&path).expect("made");
        create_private_directory(&path).expect("left as it is");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
