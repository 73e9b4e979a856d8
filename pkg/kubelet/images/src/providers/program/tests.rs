use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rstest::rstest;

use super::*;

fn shell(script: &str, env: &[(&str, &str)]) -> Program {
    let variable = |(name, value): &(&str, &str)| EnvVar { name: (*name).to_owned(), value: (*value).into() };
    Program {
        path: PathBuf::from("/bin/sh"),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: env.iter().map(variable).collect(),
    }
}

fn question(text: &str, token: Option<&str>) -> Question {
    Question { request: text.as_bytes().to_vec().into(), token: token.map(Into::into) }
}

async fn run(script: &str) -> Result<String, RunError> {
    let answer = shell(script, &[]).run(&question("what?\n", Some("t0ken"))).await?;
    Ok(String::from_utf8(answer.expose_secret().to_vec()).unwrap())
}

fn fifo(dir: &Path) -> PathBuf {
    let path = dir.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[tokio::test]
async fn a_question_goes_in_and_an_answer_comes_out() {
    assert_eq!(run("cat; echo aside >&2").await.unwrap(), "what?\n");
}

/// More than a pipe holds, into a program that reads nothing.
#[tokio::test]
async fn a_program_need_not_listen() {
    let long = "x".repeat(1 << 18);
    let answer = shell("echo known", &[]).run(&question(&long, None)).await.unwrap();
    assert_eq!(answer.expose_secret(), b"known\n");
}

#[tokio::test]
async fn the_environment_is_ours_and_the_configurations_wins() {
    let answer =
        shell("echo $HOME $PATH $OWN", &[("OWN", "own"), ("HOME", "/configured")]).run(&question("", None)).await;
    let path = std::env::var("PATH").unwrap();
    assert_eq!(String::from_utf8_lossy(answer.unwrap().expose_secret()), format!("/configured {path} own\n"));
}

/// There is no shell between: what is configured as one argument arrives as one.
#[tokio::test]
async fn arguments_are_not_looked_into() {
    let mut program = shell("printf '<%s>' \"$@\"", &[]);
    program.args.extend(["sh".to_owned(), "a b".to_owned(), "$HOME;x".to_owned()]);
    let answer = program.run(&question("", None)).await.unwrap();
    assert_eq!(answer.expose_secret(), b"<a b><$HOME;x>");
}

#[rstest]
#[case::code("echo 'no role' >&2; exit 3", "the plugin failed with exit status: 3: no role")]
#[case::signal("kill -9 $$", "the plugin failed with signal: 9 (SIGKILL): ")]
#[case::answer_and_code("echo '{}'; exit 1", "the plugin failed with exit status: 1: ")]
#[case::control_characters(
    "printf 'a\\n\\033[31mb' >&2; exit 1",
    "the plugin failed with exit status: 1: a\\n\\u{1b}[31mb"
)]
#[case::token(
    "cat >&2; echo bad t0ken, t0ken >&2; exit 1",
    "the plugin failed with exit status: 1: what?\\nbad [REDACTED], [REDACTED]"
)]
#[tokio::test]
async fn a_failure_says_what_the_program_complained_about(#[case] script: &str, #[case] text: &str) {
    assert_eq!(run(script).await.unwrap_err().to_string(), text);
}

#[rstest]
#[case::many_lines(
    "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done; exit 1"
)]
#[case::one_line("head -c 1000000 /dev/zero | tr '\\0' y >&2; exit 1")]
#[tokio::test]
async fn a_long_complaint_is_cut(#[case] script: &str) {
    let RunError::Failed { complaint, .. } = run(script).await.unwrap_err() else { panic!() };
    assert!(complaint.chars().filter(|character| *character != 'n' && *character != '\\').count() <= COMPLAINT_MAX);
    assert!(complaint.len() >= COMPLAINT_MAX / 2);
}

/// However the token lies across the end of what is read, no part of it that is worth anything is told.
#[rstest]
#[case(0)]
#[case(COMPLAINT_MAX - 10)]
#[case(COMPLAINT_MAX)]
#[case(COMPLAINT_READ_MAX - 500)]
fn a_token_is_never_told(#[case] before: usize) {
    let token = "tok".repeat(400);
    let text: String = format!("{}{token}", "-".repeat(before)).chars().take(COMPLAINT_READ_MAX).collect();
    assert!(!tell(&text, Some(&token.into())).contains("tok"));
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off_and_the_program_killed() {
    assert!(matches!(run("yes").await, Err(RunError::TooLong)));
    let most = run(&format!("head -c {ANSWER_MAX} /dev/zero")).await.unwrap();
    assert_eq!(u64::try_from(most.len()).unwrap(), ANSWER_MAX);
}

#[tokio::test]
async fn a_program_that_is_gone_is_an_error() {
    let gone = Program { path: PathBuf::from("/nonexistent"), args: Vec::new(), env: Vec::new() };
    assert!(matches!(gone.run(&question("", None)).await, Err(RunError::Start(_))));
}

/// Time stands still until the program has opened the FIFO; then it is over at once. The FIFO ends when its last writer is gone.
#[tokio::test(start_paused = true)]
async fn a_program_that_hangs_is_killed_with_its_children_after_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let script = format!("exec 3>{}; sleep 1000 & wait", path.display());
    let (program, nothing) = (shell(&script, &[]), question("", None));
    let began = tokio::time::Instant::now();
    let opened = tokio::task::spawn_blocking(move || File::open(path).unwrap());
    let (ended, opened) = tokio::join!(program.run(&nothing), opened);
    assert!(matches!(ended, Err(RunError::TooSlow)));
    assert!(began.elapsed() >= RUN_MAX && began.elapsed() < 2 * RUN_MAX);
    let mut opened = opened.unwrap();
    let ended = tokio::task::spawn_blocking(move || opened.read_to_end(&mut Vec::new()).unwrap());
    assert_eq!(ended.await.unwrap(), 0);
}

#[tokio::test]
async fn a_program_that_nobody_waits_for_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let script = format!("exec 3>{}; sleep 1000 & wait", path.display());
    let (program, nothing) = (shell(&script, &[]), question("", None));
    let opened = tokio::task::spawn_blocking(move || File::open(path).unwrap());
    let mut opened = tokio::select! {
        opened = opened => opened.unwrap(),
        ended = program.run(&nothing) => panic!("{ended:?}"),
    };
    let ended = tokio::task::spawn_blocking(move || opened.read_to_end(&mut Vec::new()).unwrap());
    assert_eq!(ended.await.unwrap(), 0);
}
