//! pcapng, as Wireshark and tshark read it (draft-ietf-opsawg-pcapng): an interface for each port, the direction in the
//! flags of a packet, and what else is known of it in its comment.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etherws::control::api::seeing::{Packet, SNAPLEN, Way};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgParser, PcapNgWriter};
use pcap_file::{DataLink, PcapError, pcap::PcapParser};

/// A capture file that grows.
pub struct CaptureFile<W: Write> {
    writer: PcapNgWriter<W>,
    /// Of each port: its interface, and the packets there. The first is the switch as a whole.
    interfaces: BTreeMap<u32, (u32, u64)>,
}

impl<W: Write> CaptureFile<W> {
    pub fn new(out: W) -> io::Result<Self> {
        let program = concat!("etherctl ", env!("CARGO_PKG_VERSION"));
        let options = vec![SectionHeaderOption::UserApplication(program.into())];
        let section = SectionHeaderBlock { options, ..SectionHeaderBlock::default() };
        let writer = PcapNgWriter::with_section_header(out, section).map_err(io_error)?;
        let mut file = Self { writer, interfaces: BTreeMap::new() };
        file.interface(SWITCH, "switch", "what no port can count")?;
        Ok(file)
    }

    /// Names a port, before its first packet.
    pub fn interface(&mut self, port: u32, name: &str, description: &str) -> io::Result<()> {
        if self.interfaces.contains_key(&port) {
            return Ok(());
        }
        self.interfaces.insert(port, (self.interfaces.len() as u32, 0));
        self.write(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: SNAPLEN,
            options: vec![
                InterfaceDescriptionOption::IfName(name.to_owned().into()),
                InterfaceDescriptionOption::IfDescription(description.to_owned().into()),
                // Nanoseconds.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        })
    }

    /// A packet with its bytes; its port is named already.
    pub fn packet(&mut self, packet: &Packet, data: &[u8], comment: &str) -> io::Result<()> {
        let Some((interface_id, count)) = self.interfaces.get_mut(&packet.port) else {
            return Err(io::Error::other("a packet of a port without a name"));
        };
        let interface_id = *interface_id;
        *count += 1;
        let way = match packet.way {
            Way::In => INBOUND,
            Way::Out => OUTBOUND,
        };
        self.write(EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(packet.unix_ns),
            original_len: packet.len,
            data: Cow::Borrowed(data),
            options: vec![EnhancedPacketOption::Comment(comment.into()), EnhancedPacketOption::Flags(way)],
        })
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    /// Statistics of each interface; those that the capture lost are the switch's.
    pub fn end(&mut self, lost: u64) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        for (port, (interface_id, count)) in std::mem::take(&mut self.interfaces) {
            let mut options = vec![InterfaceStatisticsOption::IsbIfRecv(count)];
            if port == SWITCH {
                options.push(InterfaceStatisticsOption::IsbIfDrop(lost));
            }
            // Its high word comes first, which pcap-file does not see to on machines with the low byte first.
            let timestamp = if cfg!(target_endian = "little") { now.rotate_left(32) } else { now };
            self.write(InterfaceStatisticsBlock { interface_id, timestamp, options })?;
        }
        self.flush()
    }

    fn write<'a>(&mut self, block: impl PcapNgBlock<'a>) -> io::Result<()> {
        self.writer.write_pcapng_block(block).map(|_| ()).map_err(io_error)
    }
}

/// The first packet of a pcap or pcapng file.
pub fn first_packet(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let wrong = |e: PcapError| format!("{shown}: no pcap or pcapng: {e}");
    let bytes = std::fs::read(path).map_err(|e| format!("{shown}: {}", crate::client::io_text(&e)))?;
    let none = || format!("{shown}: no packet in it");
    let ethernet = |link: DataLink| match link {
        DataLink::ETHERNET => Ok(()),
        other => Err(format!("{shown}: no Ethernet in it, but {other:?}")),
    };
    if bytes.first_chunk() != Some(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        let (rest, parser) = PcapParser::new(&bytes).map_err(wrong)?;
        ethernet(parser.header().datalink)?;
        return match parser.next_packet(rest) {
            Err(PcapError::IncompleteBuffer) if rest.is_empty() => Err(none()),
            next => Ok(next.map_err(wrong)?.1.data.into_owned()),
        };
    }
    let (mut rest, mut parser) = PcapNgParser::new(&bytes).map_err(wrong)?;
    loop {
        let (behind, block) = match parser.next_block(rest) {
            Err(PcapError::IncompleteBuffer) if rest.is_empty() => return Err(none()),
            next => next.map_err(wrong)?,
        };
        rest = behind;
        if let Block::EnhancedPacket(packet) = block {
            let link = parser.packet_interface(&packet).map(|interface| interface.linktype);
            ethernet(link.unwrap_or(DataLink::ETHERNET))?;
            return Ok(packet.data.into_owned());
        }
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// As `listCounters` numbers it.
const SWITCH: u32 = 0;
/// epb_flags, bits 0 and 1.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        let mut file = CaptureFile::new(&mut bytes).unwrap();
        file.interface(7, "tap0", "tap").unwrap();
        file.interface(7, "tap0", "tap").unwrap();
        let packet = Packet {
            unix_ns: 1_700_000_000_123_456_789,
            port: 7,
            way: Way::Out,
            len: 60,
            data: String::new(),
            drop: None,
            gso_size: None,
            frames: None,
        };
        file.packet(&packet, &[5; 33], "out at port 7").unwrap();
        assert!(file.packet(&Packet { port: 8, ..packet }, &[], "").is_err());
        file.end(3).unwrap();
        let (mut rest, mut parser) = PcapNgParser::new(&bytes).unwrap();
        let mut blocks = Vec::new();
        while !rest.is_empty() {
            let (behind, block) = parser.next_block(rest).unwrap();
            blocks.push(block);
            rest = behind;
        }
        assert_eq!(blocks.len(), 2 + 1 + 2);
        let Block::EnhancedPacket(packet) = &blocks[2] else { panic!("{:?}", blocks[2]) };
        assert_eq!((packet.interface_id, packet.original_len, packet.data.len()), (1, 60, 33));
        assert_eq!(packet.timestamp.as_nanos(), 1_700_000_000_123_456_789);
        assert!(packet.options.contains(&EnhancedPacketOption::Comment("out at port 7".into())));
        assert!(packet.options.contains(&EnhancedPacketOption::Flags(OUTBOUND)));
        let Block::InterfaceStatistics(whole) = &blocks[3] else { panic!("{:?}", blocks[3]) };
        assert!(whole.options.contains(&InterfaceStatisticsOption::IsbIfDrop(3)));
        let Block::InterfaceStatistics(port) = &blocks[4] else { panic!("{:?}", blocks[4]) };
        assert!(port.options.contains(&InterfaceStatisticsOption::IsbIfRecv(1)));
    }
}
