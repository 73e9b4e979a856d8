//! Finds the configuration of plugins and their programs (Kubernetes, `pkg/credentialprovider/plugin/config.go`,
//! `RegisterCredentialProviderPlugins`). Blocking.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use imagevol_api::credentialprovider::{ConfigError, CredentialProvider, CredentialProviderConfig, ProviderFile};
use imagevol_api::oci::Algorithm;
use imagevol_base::Digester;

use super::program::Program;

/// What files of a directory are called.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// More is not read; the parser refuses less.
const FILE_SIZE_MAX: u64 = 1 << 21;
/// Somebody may run it.
const EXECUTABLE: u32 = 0o111;

/// Why plugins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProvidersError {
    /// The directory of programs is not there.
    #[error("plugin directory {} cannot be used", path.display())]
    BinDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration cannot be read.
    #[error("credential provider configuration {} cannot be read", path.display())]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory of configuration files has none.
    #[error("no configuration files found in directory {}", path.display())]
    NoFiles {
        /// Which.
        path: PathBuf,
    },
    /// A file is no configuration.
    #[error("failed to read {}", path.display())]
    Decode {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// The plugins cannot be used as configured.
    #[error("failed to check {}", path.display())]
    Config {
        /// The file or the directory.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// A plugin's program cannot be used.
    #[error("plugin {} cannot be run", path.display())]
    Program {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ProgramError,
    },
}

/// Why a program cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be looked at.
    #[error("no such program")]
    Missing(#[source] io::Error),
    /// It is a directory, or nobody may execute it.
    #[error("not an executable file")]
    NotExecutable,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) programs: Vec<(CredentialProvider, Program)>,
    /// Of the content of all files, as `sha256:<hex>`.
    pub(super) hash: String,
}

pub(super) fn load(config: &Path, bin_dir: &Path) -> Result<Loaded, ProvidersError> {
    fs::metadata(bin_dir).map_err(|source| ProvidersError::BinDir { path: bin_dir.to_owned(), source })?;
    let (mut files, mut hasher) = (Vec::new(), Digester::new(Algorithm::Sha256));
    for path in files_of(config)? {
        let text = read(&path).map_err(|source| ProvidersError::Read { path: path.clone(), source })?;
        // With its length, so that no two sets of files have the same hash.
        hasher.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(text.as_bytes());
        files.push(ProviderFile::decode(&text).map_err(|source| ProvidersError::Decode { path, source })?);
    }
    let path = config.to_owned();
    let config = CredentialProviderConfig::new(files).map_err(|source| ProvidersError::Config { path, source })?;
    let program = |provider| Ok((program(bin_dir, &provider)?, provider));
    let programs =
        config.providers.into_iter().map(program).map(|found| found.map(|(program, config)| (config, program)));
    Ok(Loaded { programs: programs.collect::<Result<_, _>>()?, hash: hasher.finish().to_string() })
}

/// The file, or the files of a directory in the order of their names.
fn files_of(config: &Path) -> Result<Vec<PathBuf>, ProvidersError> {
    let unreadable = |source| ProvidersError::Read { path: config.to_owned(), source };
    if !fs::metadata(config).map_err(unreadable)?.is_dir() {
        return Ok(vec![config.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(config).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let extension = path.extension().and_then(OsStr::to_str);
        let is_dir = entry.file_type().map_err(unreadable)?.is_dir();
        if !is_dir && extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(ProvidersError::NoFiles { path: config.to_owned() }) } else { Ok(files) }
}

/// Looks at the file's type before it opens it: opening a FIFO would wait for a writer.
fn read(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(FILE_SIZE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The program of that name in the directory, which may be a symlink, as in the kubelet.
fn program(bin_dir: &Path, provider: &CredentialProvider) -> Result<Program, ProvidersError> {
    let path = bin_dir.join(&provider.name);
    let wrong = |source| ProvidersError::Program { path: path.clone(), source };
    let metadata = fs::metadata(&path).map_err(|error| wrong(ProgramError::Missing(error)))?;
    if !metadata.is_file() || metadata.permissions().mode() & EXECUTABLE == 0 {
        return Err(wrong(ProgramError::NotExecutable));
    }
    Ok(Program { path, args: provider.args.clone(), env: provider.env.clone() })
}
