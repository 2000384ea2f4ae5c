//! Text to tokens. Never fails as a whole: what can't be read is reported and skipped, so that the parser can go on
//! and report more.

use crate::diagnostic::{Diagnostic, Span};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'s> {
    /// A bare word: a keyword where one may stand, otherwise a name.
    Word(&'s str),
    /// `"..."`: a name, or a topic filter in FROM.
    Quoted(String),
    /// `'...'`: a text.
    Text(String),
    /// Digits, kept as written: their size is judged where their sign is known.
    Integer(&'s str),
    Float(f64),
    Symbol(Symbol),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symbol {
    Comma,
    Dot,
    DotDot,
    OpenParen,
    CloseParen,
    OpenBracket,
    CloseBracket,
    OpenBrace,
    CloseBrace,
    Colon,
    Semicolon,
    Join,
    Star,
    Plus,
    Minus,
    Slash,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    TopicMatch,
}

impl Symbol {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Comma => ",",
            Self::Dot => ".",
            Self::DotDot => "..",
            Self::OpenParen => "(",
            Self::CloseParen => ")",
            Self::OpenBracket => "[",
            Self::CloseBracket => "]",
            Self::OpenBrace => "{",
            Self::CloseBrace => "}",
            Self::Colon => ":",
            Self::Semicolon => ";",
            Self::Join => "||",
            Self::Star => "*",
            Self::Plus => "+",
            Self::Minus => "-",
            Self::Slash => "/",
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::TopicMatch => "=~",
        }
    }
}

/// The longest first: `<=` before `<`.
const SYMBOLS: [(&str, Symbol); 25] = [
    ("||", Symbol::Join),
    ("..", Symbol::DotDot),
    ("=~", Symbol::TopicMatch),
    ("!=", Symbol::NotEqual),
    ("<>", Symbol::NotEqual),
    ("<=", Symbol::LessOrEqual),
    (">=", Symbol::GreaterOrEqual),
    ("==", Symbol::Equal),
    (",", Symbol::Comma),
    (".", Symbol::Dot),
    ("(", Symbol::OpenParen),
    (")", Symbol::CloseParen),
    ("[", Symbol::OpenBracket),
    ("]", Symbol::CloseBracket),
    ("{", Symbol::OpenBrace),
    ("}", Symbol::CloseBrace),
    (":", Symbol::Colon),
    (";", Symbol::Semicolon),
    ("*", Symbol::Star),
    ("+", Symbol::Plus),
    ("-", Symbol::Minus),
    ("/", Symbol::Slash),
    ("=", Symbol::Equal),
    ("<", Symbol::Less),
    (">", Symbol::Greater),
];

pub(crate) fn tokenize<'s>(sql: &'s str, diagnostics: &mut Vec<Diagnostic>) -> Vec<(Token<'s>, Span)> {
    let mut lexer = Lexer { sql, at: 0, tokens: Vec::new(), diagnostics };
    while lexer.next_token() {}
    lexer.tokens.push((Token::End, Span::new(sql.len(), sql.len())));
    lexer.tokens
}

struct Lexer<'s, 'd> {
    sql: &'s str,
    at: usize,
    tokens: Vec<(Token<'s>, Span)>,
    diagnostics: &'d mut Vec<Diagnostic>,
}

impl<'s> Lexer<'s, '_> {
    fn rest(&self) -> &'s str {
        &self.sql[self.at..]
    }

    /// Reads one token; false at the end of the text.
    fn next_token(&mut self) -> bool {
        self.skip_blanks();
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return false };
        match first {
            '\'' | '"' => self.quoted(first),
            '0'..='9' => self.number(),
            c if c.is_alphabetic() || c == '_' => {
                let belongs = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '@');
                let len = rest.find(|c: char| !belongs(c)).unwrap_or(rest.len());
                self.push(Token::Word(&rest[..len]), len);
            }
            c => match SYMBOLS.iter().find(|(text, _)| rest.starts_with(text)) {
                Some(&(text, symbol)) => self.push(Token::Symbol(symbol), text.len()),
                None => self.stray(c),
            },
        }
        true
    }

    fn skip_blanks(&mut self) {
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            if self.rest().starts_with("--") {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if self.rest().starts_with("/*") {
                if let Some(len) = self.rest().find("*/") {
                    self.at += len + 2;
                } else {
                    let span = Span::new(self.at, self.at + 2);
                    self.diagnostics
                        .push(Diagnostic::error(span, "this comment is never closed").hint("add `*/`"));
                    self.at = self.sql.len();
                }
            } else {
                return;
            }
        }
    }

    fn push(&mut self, token: Token<'s>, len: usize) {
        self.tokens.push((token, Span::new(self.at, self.at + len)));
        self.at += len;
    }

    /// `'text'` or `"name"`. There are no escapes but the doubled quote: a backslash is a backslash.
    fn quoted(&mut self, quote: char) {
        let mut content = String::new();
        let mut body = &self.rest()[1..];
        let mut len = 1;
        loop {
            let Some(end) = body.find(quote) else {
                let span = Span::new(self.at, self.at + 1);
                self.diagnostics.push(
                    Diagnostic::error(span, format!("this {quote} is never closed"))
                        .hint(format!("add {quote} at the end; a {quote} inside is written twice")),
                );
                self.at = self.sql.len();
                return;
            };
            content.push_str(&body[..end]);
            len += end + 1;
            body = &body[end + 1..];
            if !body.starts_with(quote) {
                break;
            }
            content.push(quote);
            len += 1;
            body = &body[1..];
        }
        let token = if quote == '\'' { Token::Text(content) } else { Token::Quoted(content) };
        self.push(token, len);
    }

    fn number(&mut self) {
        let rest = self.rest().as_bytes();
        let digits = |from: usize| rest[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let mut len = digits(0);
        let mut float = false;
        // `1..4` is a range, and `a.1.b` a mistake to report as such: a point counts only before a digit.
        if rest.get(len) == Some(&b'.') && digits(len + 1) > 0 {
            len += 1 + digits(len + 1);
            float = true;
        }
        if matches!(rest.get(len), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(rest.get(len + 1), Some(b'+' | b'-')));
            let exponent = digits((len + 1 + sign).min(rest.len()));
            if exponent > 0 {
                len += 1 + sign + exponent;
                float = true;
            }
        }
        let text = &self.rest()[..len];
        if !float {
            self.push(Token::Integer(text), len);
            return;
        }
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => self.push(Token::Float(value), len),
            _ => {
                let span = Span::new(self.at, self.at + len);
                self.diagnostics.push(Diagnostic::error(span, "this number is too large"));
                self.push(Token::Float(0.0), len);
            }
        }
    }

    /// A character, or a run of the same one, that no token begins with.
    fn stray(&mut self, c: char) {
        let len = self.rest().len() - self.rest().trim_start_matches(c).len();
        let span = Span::new(self.at, self.at + len);
        let hint = match c {
            '\u{2018}' | '\u{2019}' | '\u{201C}' | '\u{201D}' | '`' => {
                Some("a text stands in '...', a name or a topic filter in \"...\"")
            }
            '%' => Some("the remainder is `mod`"),
            '&' => Some("write AND"),
            '|' => Some("write OR; texts are joined with ||"),
            '!' => Some("write NOT, or != for not equal"),
            '#' => Some("a topic filter stands in double quotes; a comment starts with --"),
            _ => None,
        };
        self.diagnostics.push(
            Diagnostic::error(span, format!("the character {c:?} has no meaning here"))
                .maybe_hint(hint.map(str::to_owned)),
        );
        self.at += len;
    }
}
