//! What the example `pgzip` writes is what it was given.

mod common;

#[path = "../examples/pgzip/blocks.rs"]
mod blocks;

use std::fs;
use std::io::{self, Read};
use std::process::Command;

use flate2::read::MultiGzDecoder;

use blocks::BLOCK;
use common::{Kind, all_pools, watchdog};

/// Some text, some noise, and some zeros, in blocks of other sizes than the compressor's.
fn input(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut noise = || {
        // Knuth's MMIX generator: the same bytes in each run.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        match bytes.len() / 50_000 % 3 {
            0 => bytes.extend_from_slice(b"to be or not to be, that is the question\n"),
            1 => bytes.extend((0..100).map(|_| noise())),
            _ => bytes.extend([0; 1000]),
        }
    }
    bytes.truncate(len);
    bytes
}

const LENGTHS: [usize; 7] = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 20 * BLOCK + 12_345];

#[test]
#[cfg_attr(miri, ignore = "compresses megabytes")]
fn a_decoder_restores_it_byte_for_byte() {
    watchdog(120, || {
        for (kind, pool) in all_pools() {
            for len in LENGTHS {
                let input = input(len);
                let (mut by_pool, mut by_loop) = (Vec::new(), Vec::new());
                blocks::on_pool(&pool, input.as_slice(), &mut by_pool).unwrap();
                blocks::in_loop(input.as_slice(), &mut by_loop).unwrap();
                assert!(by_pool == by_loop, "{kind:?}, {len} bytes");
                let mut restored = Vec::new();
                MultiGzDecoder::new(by_pool.as_slice()).read_to_end(&mut restored).unwrap();
                assert!(restored == input, "{kind:?}, {len} bytes");
            }
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn gunzip_restores_it_byte_for_byte() {
    watchdog(60, || {
        if Command::new("gunzip").arg("--version").output().is_err() {
            return;
        }
        let pool = Kind::Lasting(3).pool();
        for len in LENGTHS {
            let input = input(len);
            let mut packed = Vec::new();
            blocks::on_pool(&pool, input.as_slice(), &mut packed).unwrap();
            // A file and not a pipe, which would block when both sides are full.
            let name = format!("parpool-{}-{len}.gz", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::write(&path, &packed).unwrap();
            let output = Command::new("gunzip").arg("-c").arg(&path).output().unwrap();
            fs::remove_file(&path).unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == input, "{len} bytes");
        }
    });
}

/// A reader that fails after some bytes.
struct Broken(usize);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("the disk is gone"));
        }
        let len = buffer.len().min(self.0);
        buffer[..len].fill(b'x');
        self.0 -= len;
        Ok(len)
    }
}

#[test]
#[cfg_attr(miri, ignore = "compresses megabytes")]
fn an_input_that_fails_is_the_error() {
    watchdog(20, || {
        for (_, pool) in all_pools() {
            for len in [0, 1, 3 * BLOCK] {
                let mut output = Vec::new();
                let error = blocks::on_pool(&pool, Broken(len), &mut output).unwrap_err();
                assert_eq!(error.to_string(), "the disk is gone");
                let mut restored = Vec::new();
                MultiGzDecoder::new(output.as_slice()).read_to_end(&mut restored).ok();
                assert_eq!(restored.len(), len / BLOCK * BLOCK, "what was read before is written");
            }
        }
    });
}
