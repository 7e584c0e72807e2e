"""Chat templates: conversion of a conversation to the text format on which a model was trained."""
