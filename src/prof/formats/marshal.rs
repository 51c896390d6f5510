//! Python's marshal, as far as cProfile's files need it (CPython `Python/marshal.c`, version 4 and older).
//! Written are the codes `{ ( u i l g 0` alone; read is what Python itself writes, too.

use std::rc::Rc;

/// What a file holds. Shared parts are shared: a file cannot make more of itself than it is long.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// None, True, False and whatever else no profile has.
    Other,
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    Tuple(Rc<[Value]>),
    Dict(Rc<[(Value, Value)]>),
}

/// No profile is deeper than five.
const MAX_DEPTH: usize = 16;

/// Set on a code whose object may be named again.
const FLAG_REF: u8 = 0x80;

impl Value {
    pub fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    pub fn tuple(values: Vec<Self>) -> Self {
        Self::Tuple(values.into())
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Other => out.push(b'N'),
            Self::Int(value) => match i32::try_from(*value) {
                Ok(value) => {
                    out.push(b'i');
                    out.extend(value.to_le_bytes());
                }
                Err(_) => write_long(*value, out),
            },
            Self::Float(value) => {
                out.push(b'g');
                out.extend(value.to_le_bytes());
            }
            Self::Text(text) => {
                out.push(b'u');
                write_len(text.len(), out);
                out.extend(text.as_bytes());
            }
            Self::Tuple(values) => {
                out.push(b'(');
                write_len(values.len(), out);
                values.iter().for_each(|value| value.write(out));
            }
            Self::Dict(pairs) => {
                out.push(b'{');
                for (key, value) in pairs.iter() {
                    key.write(out);
                    value.write(out);
                }
                out.push(b'0');
            }
        }
    }

    /// The one value in a file. Nothing is taken for as long as a header says it is: memory grows only
    /// with what is really there.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, at: 0, refs: Vec::new() };
        let value = reader.value(0)?;
        match value {
            Some(_) if reader.at != bytes.len() => Err(format!("more behind its end at byte {}", reader.at)),
            Some(value) => Ok(value),
            None => Err("nothing in it".into()),
        }
    }
}

fn write_len(len: usize, out: &mut Vec<u8>) {
    // Names and tuples of ours are short.
    out.extend((len as u32).to_le_bytes());
}

/// Digits of 15 bits, their number negative for a negative value.
fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = value.unsigned_abs();
    let mut digits = Vec::new();
    while rest > 0 {
        digits.push((rest & 0x7fff) as u16);
        rest >>= 15;
    }
    let count = digits.len() as i32;
    out.push(b'l');
    out.extend(if value < 0 { -count } else { count }.to_le_bytes());
    digits.iter().for_each(|digit| out.extend(digit.to_le_bytes()));
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    refs: Vec<Value>,
}

impl<'a> Reader<'a> {
    /// `None`: the end of a dict.
    fn value(&mut self, depth: usize) -> Result<Option<Value>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("nested too deep at byte {}", self.at));
        }
        let start = self.at;
        let [code] = self.take()?;
        // An object has its number before those inside it.
        let number = (code & FLAG_REF != 0).then(|| {
            self.refs.push(Value::Other);
            self.refs.len() - 1
        });
        let value = match code & !FLAG_REF {
            b'0' => return Ok(None),
            b'N' | b'T' | b'F' => Value::Other,
            b'i' => Value::Int(i32::from_le_bytes(self.take()?).into()),
            b'l' => Value::Int(self.long()?),
            b'g' => Value::Float(f64::from_le_bytes(self.take()?)),
            b'u' | b't' | b'a' | b'A' => {
                let len = self.len()?;
                self.text(len)?
            }
            b'z' | b'Z' => {
                let [len] = self.take()?;
                self.text(len.into())?
            }
            b'(' => {
                let len = self.len()?;
                self.tuple(len, depth)?
            }
            b')' => {
                let [len] = self.take()?;
                self.tuple(len.into(), depth)?
            }
            b'{' => {
                let mut pairs = Vec::new();
                while let Some(key) = self.value(depth + 1)? {
                    let value = self.value(depth + 1)?.ok_or("a dict ends behind a key")?;
                    pairs.push((key, value));
                }
                Value::Dict(pairs.into())
            }
            b'r' => {
                let index = u32::from_le_bytes(self.take()?) as usize;
                self.refs
                    .get(index)
                    .cloned()
                    .ok_or_else(|| format!("a reference to nothing at byte {start}"))?
            }
            code => {
                return Err(format!(
                    "code {:?} at byte {start}",
                    char::from(code).escape_default().to_string()
                ));
            }
        };
        if let Some(number) = number {
            self.refs[number] = value.clone();
        }
        Ok(Some(value))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.slice(N)?;
        // A slice of that very length.
        bytes.try_into().map_err(|_| "short".to_owned())
    }

    fn slice(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("ends too early, at byte {}", self.bytes.len()))?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn len(&mut self) -> Result<usize, String> {
        let start = self.at;
        let len = i32::from_le_bytes(self.take()?);
        usize::try_from(len).map_err(|_| format!("a negative length at byte {start}"))
    }

    fn text(&mut self, len: usize) -> Result<Value, String> {
        let start = self.at;
        let text = std::str::from_utf8(self.slice(len)?);
        text.map(Value::text).map_err(|_| format!("no UTF-8 at byte {start}"))
    }

    fn tuple(&mut self, len: usize, depth: usize) -> Result<Value, String> {
        let mut values = Vec::new();
        for _ in 0..len {
            values.push(self.value(depth + 1)?.ok_or("a tuple ends early")?);
        }
        Ok(Value::tuple(values))
    }

    fn long(&mut self) -> Result<i64, String> {
        let start = self.at;
        let count = i32::from_le_bytes(self.take()?);
        let too_large = || format!("a number too large at byte {start}");
        let mut value = 0_u64;
        if count.unsigned_abs() > 5 {
            return Err(too_large());
        }
        for place in 0..count.unsigned_abs() {
            let digit = u64::from(u16::from_le_bytes(self.take()?) & 0x7fff);
            let shifted = digit.checked_shl(15 * place).filter(|shifted| shifted >> (15 * place) == digit);
            value |= shifted.ok_or_else(too_large)?;
        }
        let value = i64::try_from(value).map_err(|_| too_large())?;
        Ok(if count < 0 { -value } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(value: &Value) {
        let mut bytes = Vec::new();
        value.write(&mut bytes);
        assert_eq!(Value::read(&bytes).as_ref(), Ok(value), "{bytes:?}");
        for cut in 0..bytes.len() {
            assert!(Value::read(&bytes[..cut]).is_err(), "{value:?} cut at {cut}");
        }
    }

    #[test]
    fn all_codes_there_and_back() {
        for int in [0, -1, 1, i32::MAX.into(), 1 << 31, 1 << 40, -(1 << 62), i64::MAX] {
            there_and_back(&Value::Int(int));
        }
        there_and_back(&Value::Float(-1.5e300));
        there_and_back(&Value::text("fünf"));
        let key = Value::tuple(vec![Value::text("f"), Value::Int(3), Value::text("")]);
        there_and_back(&Value::Dict(vec![(key, Value::Dict(vec![].into()))].into()));
    }

    #[test]
    fn as_python_writes_it() {
        // marshal.dumps({('f', 1): 1 << 31, 'f': 0.5}): refs, short texts and tuples.
        let bytes: &[u8] = b"{\xa9\x02\xda\x01f\xe9\x01\x00\x00\x00\xec\x03\x00\x00\x00\x00\x00\x00\x00\x02\x00r\x01\x00\x00\x00\
            \xe7\x00\x00\x00\x00\x00\x00\xe0?0";
        let f = Value::text("f");
        let expected = Value::Dict(
            vec![(Value::tuple(vec![f.clone(), Value::Int(1)]), Value::Int(1 << 31)), (f, Value::Float(0.5))]
                .into(),
        );
        assert_eq!(Value::read(bytes), Ok(expected));
    }

    #[test]
    fn headers_promise_nothing() {
        for (bytes, word) in [
            (&b"(\xff\xff\xff\x7f"[..], "early"),
            (b"u\xff\xff\xff\x7fabc", "early"),
            (b"(\xff\xff\xff\xff", "negative"),
            (b"l\xff\xff\xff\x7f", "too large"),
            (b"r\x00\x00\x00\x00", "nothing"),
            (b"u\x01\x00\x00\x00\xff", "UTF-8"),
            (b"c", "code"),
            (b"0", "nothing"),
            (b"i\x00\x00\x00\x00i", "behind"),
        ] {
            let why = Value::read(bytes).expect_err(word);
            assert!(why.contains(word), "{why}");
        }
        assert!(Value::read(&[b'('; 100_000]).is_err());
        assert!(Value::read(&b")\x01".repeat(100_000)).unwrap_err().contains("deep"));
        assert!(Value::read(&[b'{'; 100_000]).unwrap_err().contains("deep"));
    }
}
