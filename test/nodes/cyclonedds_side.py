"""A camera that knows no ROS: images and a question written by Eclipse Cyclone DDS's own types.

    python test/nodes/cyclonedds_side.py DOMAIN_ID PICTURE QUESTION

Publishes the picture as sensor_msgs/Image five times a second, and the question as std_msgs/String
until it is killed. Source of the names: REP 2008's mapping of topics and types to DDS, the prefix
"rt/" and the suffix "_".
"""

import os
import sys
import time
from dataclasses import dataclass

import cv2
from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import int32, sequence, uint8, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.topic import Topic
from cyclonedds.util import duration

# On this machine alone, as the suite's own nodes: they are asked at their ports, without multicast.
LOOPBACK = """
<CycloneDDS><Domain>
  <General>
    <Interfaces><NetworkInterface name="lo"/></Interfaces>
    <AllowMulticast>false</AllowMulticast>
  </General>
  <Discovery>
    <ParticipantIndex>auto</ParticipantIndex>
    <MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>
    <Peers><Peer Address="127.0.0.1"/></Peers>
  </Discovery>
</Domain></CycloneDDS>
"""


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


@dataclass
class String(IdlStruct, typename="std_msgs::msg::dds_::String_"):
    data: str


def writer(participant, topic, kind):
    """A reliable writer of classic CDR, which is what ROS 2 writes."""
    quality = Qos(
        Policy.Reliability.Reliable(duration(seconds=1)),
        Policy.History.KeepLast(5),
        Policy.DataRepresentation(use_cdrv0_representation=True),
    )
    return DataWriter(
        participant, Topic(participant, f"rt/{topic}", kind, qos=quality), qos=quality
    )


def main(domain_id, picture, question):
    """Publish until killed."""
    os.environ["CYCLONEDDS_URI"] = LOOPBACK
    bgr = cv2.imread(picture)
    height, width, _ = bgr.shape
    pixels = list(bgr.tobytes())
    participant = DomainParticipant(int(domain_id))
    images = writer(participant, "image", Image)
    questions = writer(participant, "grounding/query", String)
    while True:
        stamp = Time(*divmod(time.time_ns(), 1_000_000_000))
        images.write(Image(Header(stamp, "foreign"), height, width, "bgr8", 0, 3 * width, pixels))
        questions.write(String(question))
        time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
