//! What the machine allows: each stage of a pull by itself, with the same libraries, from memory.

use std::fs::File;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use imagevol_base::Digester;
use imagevol_test_support::image::{Blob, Compression};
use nix::unistd::{SysconfVar, sysconf};

use crate::images::{Content, Published};
use crate::sample::timed;
use crate::{Bench, cores};

/// Bytes at once: enough that calls do not count.
const CHUNK: usize = 256 * 1024;

/// Time of each stage for all layers of an image, one after the other on one core.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stages {
    /// From the registry, thrown away.
    pub(crate) receive: Duration,
    /// CPU time of that, at both ends: the registry has no cores of its own.
    pub(crate) transfer: Duration,
    pub(crate) hash_blob: Duration,
    pub(crate) inflate: Duration,
    /// Nothing where the tar is the blob.
    pub(crate) hash_tar: Duration,
    pub(crate) write: Duration,
    pub(crate) sync: Duration,
}

// === impl Stages ===

impl Stages {
    pub(crate) fn measure(bench: &Bench, published: &Published) -> Result<Self> {
        let mut stages = Self::default();
        for (blob, content) in published.image.layers.iter().zip(&published.contents) {
            let before = worked(bench)?;
            stages.receive += timed_ok(|| receive(bench, &published.repository, blob))?;
            stages.transfer += worked(bench)?.saturating_sub(before);
            stages.hash_blob += timed(|| Digester::sha256(&blob.bytes)).0;
            stages.inflate += timed_ok(|| inflate(blob, content.compression))?;
            if content.compression != Compression::None {
                stages.hash_tar += timed(|| Digester::sha256(&content.bytes)).0;
            }
            stages.add_write(&bench.dir().join("bound"), content)?;
        }
        Ok(stages)
    }

    fn add_write(&mut self, path: &Path, content: &Content) -> Result<()> {
        let mut file = File::create(path).context("create")?;
        self.write += timed_ok(|| Ok(content.bytes.chunks(CHUNK).try_for_each(|chunk| file.write_all(chunk))?))?;
        self.sync += timed_ok(|| file.sync_all().context("sync"))?;
        std::fs::remove_file(path).context("remove")
    }

    /// No pull can be faster, with these libraries: the longest stage, since a stream is one thing after the other, or the
    /// work of all stages on all cores.
    pub(crate) fn bound(&self, layers: usize) -> Duration {
        let streams = u32::try_from(layers.min(cores())).unwrap_or(1).max(1);
        let cores = u32::try_from(cores()).unwrap_or(1);
        let longest = [self.receive, self.hash_blob, self.inflate, self.hash_tar].into_iter().max().unwrap_or_default();
        let work = self.transfer + self.hash_blob + self.inflate + self.hash_tar + self.write;
        (longest / streams).max(work / cores).max(self.write + self.sync)
    }
}

/// CPU time of the registry and of this thread so far.
fn worked(bench: &Bench) -> Result<Duration> {
    Ok(cpu_time(&format!("/proc/{}/stat", bench.registry.pid()))? + cpu_time("/proc/thread-self/stat")?)
}

/// `utime` and `stime` (proc_pid_stat(5)), in ticks.
fn cpu_time(stat: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(stat).context("read a CPU time")?;
    // Fields 14 and 15, counted from behind the name, which ends with the last parenthesis and is field 2.
    let fields = stat.rsplit_once(')').context("a name in parentheses")?.1.split_whitespace();
    let ticks = fields.skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>().context("ticks")?;
    let second = sysconf(SysconfVar::CLK_TCK).context("ticks of a second")?.context("ticks of a second")?;
    Ok(Duration::from_secs_f64(ticks / f64::from(i32::try_from(second)?)))
}

/// HTTP 1.0: the body ends with the connection.
fn receive(bench: &Bench, repository: &str, blob: &Blob) -> Result<()> {
    let host = bench.registry.host();
    let mut stream = TcpStream::connect(&host).context("connect to the registry")?;
    write!(stream, "GET /v2/{repository}/blobs/{} HTTP/1.0\r\nHost: {host}\r\n\r\n", blob.digest)?;
    let received = drain(stream)?;
    anyhow::ensure!(received > blob.bytes.len(), "the registry sent {received} bytes");
    Ok(())
}

fn inflate(blob: &Blob, compression: Compression) -> Result<()> {
    match compression {
        Compression::None => Ok(()),
        Compression::Gzip | Compression::GzipMembers(_) => {
            drain(flate2::bufread::MultiGzDecoder::new(blob.bytes.as_ref())).map(drop)
        }
        Compression::Zstd => drain(zstd::stream::read::Decoder::with_buffer(blob.bytes.as_ref())?).map(drop),
    }
}

fn drain(mut reader: impl Read) -> Result<usize> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let count = reader.read(&mut buffer).context("read")?;
        if count == 0 {
            return Ok(total);
        }
        total += count;
    }
}

fn timed_ok(step: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let (time, result) = timed(step);
    result.map(|()| time)
}
