//! Completion scripts, which know the types of resources: the parser takes these in any of kubectl's spellings, and names behind them.

use std::string::FromUtf8Error;

use clap::builder::PossibleValuesParser;
use clap_complete::Shell;

use crate::target::Resource;
use crate::text;

/// The program's name.
const NAME: &str = "imagevol";
/// The argument with types and names, in every command that has one.
const TARGET: &str = "target";
/// Commands that are about pods alone.
const OF_PODS: [&str; 4] = ["describe", "wait", "path", "retry"];

/// The script for a shell; `types` are what commands take that are about more than pods.
pub(crate) fn completion(shell: Shell, types: &[(&str, &[Resource])]) -> Result<String, FromUtf8Error> {
    let words = words(types);
    let mut command = words.iter().fold(super::command(), |command, (name, words)| with_words(command, name, words));
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, NAME, &mut script);
    let mut script = String::from_utf8(script)?;
    if shell == Shell::Fish {
        // clap_complete's script for fish has options only.
        for (name, words) in &words {
            text::append(&mut script, format_args!("{}\n", of_fish(name, words)));
        }
    }
    Ok(script)
}

/// Each command's types: in the plural where they may stand alone.
fn words<'t>(types: &[(&'t str, &[Resource])]) -> Vec<(&'t str, Vec<&'static str>)> {
    let word = |name: &str, resource: &Resource| if name == "get" { resource.plural() } else { resource.singular() };
    let of_pods = OF_PODS.map(|name| (name, vec![Resource::Pods.singular()]));
    let others = types.iter().map(|(name, known)| (*name, known.iter().map(|known| word(name, known)).collect()));
    others.chain(of_pods).collect()
}

fn with_words(command: clap::Command, name: &str, words: &[&'static str]) -> clap::Command {
    let parser = PossibleValuesParser::new(words.to_vec());
    command.mut_subcommand(name, |command| command.mut_arg(TARGET, |target| target.value_parser(parser)))
}

/// Types until there is one: what follows are names.
fn of_fish(name: &str, words: &[&str]) -> String {
    let words = words.join(" ");
    format!(
        "complete -c {NAME} -n \"__fish_{NAME}_using_subcommand {name}; and not __fish_seen_subcommand_from {words}\" -f -a \"{words}\""
    )
}
