//! `WWW-Authenticate` (RFC 9110, section 11.6.1): several headers, several schemes in one, quoted commas.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// Longest header that is looked at; real ones have some 200 bytes.
const LENGTH_MAX: usize = 16 * 1024;

/// One scheme that a server would accept, with its parameters; names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) scheme: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

/// A header that is outside the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A token of this service.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// User name and password.
    Basic,
}

/// What is left to parse.
struct Cursor<'t> {
    rest: &'t str,
}

/// The strongest scheme that the headers offer and that we speak; a header outside the grammar offers nothing.
pub(crate) fn wanted(headers: &HeaderMap) -> Option<Wanted> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let challenges: Vec<Challenge> = texts.filter_map(|text| parse(text).ok()).flatten().collect();
    let bearer = challenges.iter().find_map(Challenge::bearer);
    bearer.or_else(|| challenges.iter().any(|challenge| challenge.scheme == "basic").then_some(Wanted::Basic))
}

/// Parses the value of one header.
pub(crate) fn parse(text: &str) -> Result<Vec<Challenge>, Malformed> {
    if text.len() > LENGTH_MAX {
        return Err(Malformed);
    }
    let mut cursor = Cursor { rest: text };
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        cursor.skip(|c| c == ',' || is_space(c));
        if cursor.rest.is_empty() {
            return Ok(challenges);
        }
        let name = cursor.token()?.to_ascii_lowercase();
        if cursor.equals_sign() {
            let value = cursor.value()?;
            let challenge = challenges.last_mut().ok_or(Malformed)?;
            if challenge.parameters.insert(name, value).is_some() {
                return Err(Malformed);
            }
        } else {
            cursor.skip_token68();
            challenges.push(Challenge { scheme: name, parameters: BTreeMap::new() });
        }
    }
}

// === impl Challenge ===

impl Challenge {
    fn bearer(&self) -> Option<Wanted> {
        let parameter = |name: &str| self.parameters.get(name).filter(|value| !value.is_empty()).cloned();
        let realm = parameter("realm").filter(|_| self.scheme == "bearer")?;
        Some(Wanted::Bearer { realm, service: parameter("service"), scope: parameter("scope") })
    }
}

// === impl Cursor ===

impl<'t> Cursor<'t> {
    fn skip(&mut self, which: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(which);
    }

    fn take(&mut self, which: impl Fn(char) -> bool) -> &'t str {
        let end = self.rest.find(|c| !which(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn token(&mut self) -> Result<&'t str, Malformed> {
        let token = self.take(is_token);
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// Takes `=` with the white space around it, if that comes next.
    fn equals_sign(&mut self) -> bool {
        let Some(rest) = self.rest.trim_start_matches(is_space).strip_prefix('=') else { return false };
        self.rest = rest.trim_start_matches(is_space);
        true
    }

    fn value(&mut self) -> Result<String, Malformed> {
        match self.rest.strip_prefix('"') {
            Some(rest) => {
                self.rest = rest;
                self.quoted()
            }
            // Unquoted URLs are outside the grammar, but occur.
            None => Ok(self.take(|c| c != ',' && !is_space(c)).to_owned()),
        }
    }

    fn quoted(&mut self) -> Result<String, Malformed> {
        let mut value = String::new();
        let mut characters = self.rest.chars();
        loop {
            match characters.next().ok_or(Malformed)? {
                '"' => break,
                '\\' => value.push(characters.next().ok_or(Malformed)?),
                character => value.push(character),
            }
        }
        self.rest = characters.as_str();
        Ok(value)
    }

    /// After a scheme there may be one word of base 64 instead of parameters, as with `Negotiate`.
    fn skip_token68(&mut self) {
        let rest = self.rest.trim_start_matches(is_space);
        let after = rest.trim_start_matches(is_token68).trim_start_matches('=').trim_start_matches(is_space);
        if after.is_empty() || after.starts_with(',') {
            self.rest = after;
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn is_token68(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~+/".contains(c)
}

#[cfg(test)]
mod tests;
