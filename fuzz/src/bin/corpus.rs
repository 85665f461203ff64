//! Writes the corpora: `cargo run -p fuzz --bin corpus`. See [`blkproof_fuzz::corpus`].

use std::path::Path;
use std::{fs, io};

use blkproof_fuzz::{PLANTED, TARGETS, corpus};

fn main() -> io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, _) in TARGETS.into_iter().chain([PLANTED]) {
        fs::create_dir_all(dir.join(name))?;
        for (file, input) in corpus::of(name) {
            fs::write(dir.join(name).join(file), input)?;
        }
    }
    Ok(())
}
