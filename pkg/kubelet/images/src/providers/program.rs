//! A plugin's program: started for one question, without a shell, and ended after a minute at the latest.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use imagevol_api::credentialprovider::EnvVar;
use imagevol_base::ProcessGroup;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

/// Longest run (Kubernetes, `pkg/credentialprovider/plugin/plugin.go`, `ExecPlugin`).
const RUN_MAX: Duration = Duration::from_mins(1);
/// Longest answer that is read. Ours, as the kubelet has none: what Kubernetes takes as a secret (`MaxSecretSize`).
const ANSWER_MAX: u64 = 1 << 20;
/// How much of what the program complains about is told. Ours: some lines.
const COMPLAINT_MAX: usize = 1024;
/// How much of it is looked through for the token, which must not be told; eight times as much, so that a token that is cut
/// at the end lies beyond what is told.
const COMPLAINT_READ_MAX: usize = 8 * COMPLAINT_MAX;

/// How to start a plugin.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<EnvVar>,
}

/// What a program is asked.
#[derive(Debug)]
pub(super) struct Question {
    /// Its standard input.
    pub(super) request: SecretSlice<u8>,
    /// The token in it.
    pub(super) token: Option<SecretString>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// The program could not be started.
    #[error("failed to start the plugin")]
    Start(#[source] io::Error),
    /// Its pipes broke.
    #[error("failed to talk to the plugin")]
    Talk(#[source] io::Error),
    /// It took too long, and was killed.
    #[error("the plugin did not end within {} s and was killed", RUN_MAX.as_secs())]
    TooSlow,
    /// It said too much, and was killed.
    #[error("the plugin answered with more than {ANSWER_MAX} bytes and was killed")]
    TooLong,
    /// It failed.
    #[error("the plugin failed with {status}: {complaint}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The beginning of its standard error without the token, with control characters escaped.
        complaint: String,
    },
}

// === impl Program ===

impl Program {
    /// Asks `question`, and waits for the answer. Dropping the future kills the program with all that it started.
    ///
    /// It gets the daemon's environment with its own variables added, as from the kubelet.
    pub(super) async fn run(&self, question: &Question) -> Result<SecretSlice<u8>, RunError> {
        let mut command = Command::new(&self.path);
        command.args(&self.args);
        command.envs(self.env.iter().map(|variable| (&variable.name, variable.value.expose_secret())));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let group = ProcessGroup::spawn(&mut command).map_err(RunError::Start)?;
        timeout(RUN_MAX, talk(group, question)).await.unwrap_or(Err(RunError::TooSlow))
    }
}

/// The program is waited for last: until then its number is its own, and its group can be killed.
async fn talk(mut group: ProcessGroup, question: &Question) -> Result<SecretSlice<u8>, RunError> {
    let leader = group.leader();
    let pipes = (leader.stdin.take(), leader.stdout.take(), leader.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(RunError::Talk(io::ErrorKind::BrokenPipe.into()));
    };
    let asking = async move {
        match stdin.write_all(question.request.expose_secret()).await {
            // Whoever knows the answer need not read the question.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(RunError::Talk(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    };
    let ((), answer, complaint) = tokio::try_join!(asking, read_answer(stdout), read_complaint(stderr))?;
    let status = group.wait().await.map_err(RunError::Talk)?;
    if status.success() {
        return Ok(answer);
    }
    let complaint = tell(&complaint, question.token.as_ref());
    Err(RunError::Failed { status, complaint })
}

async fn read_answer(stdout: impl AsyncRead + Unpin) -> Result<SecretSlice<u8>, RunError> {
    let mut answer = Vec::new();
    let read = stdout.take(ANSWER_MAX + 1).read_to_end(&mut answer).await;
    let answer: SecretSlice<u8> = answer.into();
    let length = read.map_err(RunError::Talk)?;
    if u64::try_from(length).is_ok_and(|length| length <= ANSWER_MAX) { Ok(answer) } else { Err(RunError::TooLong) }
}

/// Reads to the end, so that the program never waits for a reader; keeps the beginning.
async fn read_complaint(mut stderr: impl AsyncRead + Unpin) -> Result<String, RunError> {
    let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let length = stderr.read(&mut piece).await.map_err(RunError::Talk)?;
        if length == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        let room = COMPLAINT_READ_MAX.saturating_sub(kept.len());
        kept.extend(piece.iter().take(length.min(room)));
    }
}

fn tell(complaint: &str, token: Option<&SecretString>) -> String {
    let token = token.map(ExposeSecret::expose_secret).filter(|token| !token.is_empty());
    let told = token.map_or_else(|| complaint.to_owned(), |token| complaint.replace(token, "[REDACTED]"));
    let told: String = told.chars().take(COMPLAINT_MAX).collect();
    told.trim_end().escape_debug().to_string()
}

#[cfg(test)]
mod tests;
