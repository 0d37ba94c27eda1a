"""The multimodal keypoint network: lay one image on another, whatever the sensor."""
